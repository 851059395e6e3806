"""Images and questions of one's own: nothing that a person gave is lost, and what cannot be patched is explained."""

import pytest
from PIL import Image

from vlmtrace.app.own_pair import LONGEST_QUESTION, why_not_patched, with_image, with_question, without
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display import Session

WHITE, BLACK = (Image.new("RGB", (40, 40), color) for color in ("white", "black"))


@pytest.fixture
def session(model_store, random_pairs):
    return Session(model_store.shared("random_blip"), random_pairs)


def test_a_corrupt_image_stands_beside_the_clean_one(session):
    before = session.example.pair
    own = with_image(session, WHITE, "corrupt")
    assert own.name == "own" and own.pair["clean_image"] == before["clean_image"]
    assert own.other_image.getpixel((0, 0)) == (255, 255, 255) and "image" in own.corruptions
    assert "correct_answer" not in own.pair, "the answers were those of the other image"


def test_a_clean_image_keeps_what_a_person_gave_and_nothing_of_the_table(session):
    own = with_image(session, WHITE, "clean")
    assert own.corruptions == [], "another pair's corrupt side is no corruption of this image"
    with_image(session, BLACK, "corrupt")
    with_question(session, "is this square red?", "corrupt")
    own = with_image(session, Image.new("RGB", (40, 40), "red"), "clean")
    assert set(own.corruptions) == {"image", "text"} and own.pair["corrupt_prompt"] == "is this square red?"


def test_either_side_can_be_removed(session):
    with_image(session, WHITE, "clean")
    with_image(session, BLACK, "corrupt")
    with_question(session, "is this square red?", "corrupt")
    own = without(session, "image", "clean")
    assert own.pair["clean_image"] is BLACK and own.corruptions == ["text"]
    clean = own.question
    own = without(session, "prompt", "clean")
    assert own.question == "is this square red?" != clean and own.corruptions == []
    for part in ("image", "prompt"):
        with pytest.raises(VlmtraceError, match="It is the only one"):
            without(session, part, "corrupt")
    assert session.example is own


def test_a_pair_of_the_table_stays_as_it_is(session):
    name, question = session.example.name, session.example.question
    with_question(session, "is this square red?", "clean")
    assert session.choose(name).question == question
    with_question(session, "is this circle red?", "clean")
    assert [own.question for own in session.owns.values()] == ["is this square red?", "is this circle red?"]
    with_question(session, "is this circle blue?", "clean")
    assert list(session.owns) == ["own", "own 2"], "what is one's own already is changed in place"


def test_unlike_questions_are_explained(session):
    with_question(session, "is this square red?", "clean")
    assert why_not_patched(session.example) == {}
    own = with_question(session, "is this very large square red or blue?", "corrupt")
    said = why_not_patched(own)["text"]
    counts = [session.model.count_tokens(own.pair[name]) for name in ("clean_prompt", "corrupt_prompt")]
    assert said.startswith(f"The clean question has {counts[0]} tokens and the corrupt one {counts[1]}")
    assert "remove it" in said
    assert why_not_patched(with_question(session, "is this circle red?", "corrupt")) == {}


@pytest.mark.parametrize("question", ["", "  \n", "x" * (LONGEST_QUESTION + 1)])
def test_what_is_no_question_is_said_and_changes_nothing(session, question):
    before = session.example
    with pytest.raises(VlmtraceError, match=r"is empty|more than 2,000"):
        with_question(session, question, "corrupt")
    assert session.example is before
