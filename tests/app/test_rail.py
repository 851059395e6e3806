"""The rail: what it tells of the example, and what it does with messages of the page."""

import io
import math

import pytest
from PIL import Image

from vlmtrace.app.rail import THUMBNAIL, Rail, gauge_of
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display import Patched, Session


@pytest.fixture(scope="module", params=["blip", "llava"])
def model(request, model_store):
    return model_store.shared("random_blip" if request.param == "blip" else request.param)


@pytest.fixture
def session(model, random_pairs):
    return Session(model, random_pairs)


@pytest.fixture
def rail(session):
    rail = Rail(lambda _: None)
    rail.follow(session)
    return rail


def say(rail, *buffers, **message):
    rail._receive(rail, message, list(buffers))


def png_of(color):
    buffer = io.BytesIO()
    Image.new("RGB", (30, 30), color).save(buffer, format="png")
    return buffer.getvalue()


def test_it_shows_the_pair_with_both_sides(rail, session):
    example = session.example
    assert not rail.error and rail.state["name"] == example.name
    assert rail.state["questions"] == {"clean": example.question, "corrupt": example.pair["corrupt_prompt"]}
    assert rail.state["answers"] == {run: example.answer(run).text for run in ("clean", "image", "text")}
    for sent, image in ((rail.clean, example.image), (rail.corrupt, example.other_image)):
        assert Image.open(io.BytesIO(sent)).convert("RGB").tobytes() == image.tobytes(), "small pictures are sent whole"
    assert [name for name, _ in rail.pairs] == session.pairs["sample_id"].tolist()


def test_messages_of_the_page(rail, session):
    second = session.pairs["sample_id"].iloc[1]
    say(rail, do="choose", sample_id=second)
    assert session.example.name == second == rail.state["name"]
    say(rail, do="ask", question=" is this circle red? ", side="clean")
    assert rail.state["questions"]["clean"] == "is this circle red?" and rail.state["isOwn"]
    say(rail, png_of("red"), do="open", side="corrupt")
    assert not rail.error and rail.state["has"]["image"]
    assert Image.open(io.BytesIO(rail.corrupt)).getpixel((0, 0)) == (255, 0, 0)
    say(rail, do="remove", part="image", side="corrupt")
    assert not rail.state["has"]["image"] and rail.corrupt == b""


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ({"do": "choose", "sample_id": "x"}, "There is no pair 'x'"),
        ({"do": "ask", "question": "", "side": "clean"}, "The clean question is empty"),
        ({"do": "remove", "part": "image", "side": "corrupt"}, "It is the only one"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(rail, session, message, sentence):
    say(rail, do="ask", question="is this circle red?", side="clean")
    if message["do"] == "remove":
        say(rail, do="remove", part="image", side="corrupt")
    before = session.example
    say(rail, **message)
    assert rail.error.startswith(sentence) and not rail.doing and session.example is before


@pytest.mark.parametrize(
    "message",
    [
        None,
        3,
        "x",
        [],
        {},
        {"do": "run"},
        {"do": "ask", "question": 3, "side": "clean"},
        {"do": "ask", "question": "a", "side": "_ask"},
        {"do": "open", "side": "clean"},
        {"do": "remove", "part": "model", "side": "clean"},
        {"do": "choose", "sample_id": ["x"]},
        {"do": "thumbnails", "of": "abc"},
        {"do": "model", "name": {}},
    ],
)
def test_other_messages_do_nothing(rail, session, message):
    before = session.example
    rail._receive(rail, message, [])
    assert session.example is before and not rail.error


def test_small_pictures_are_sent_of_pairs_only(rail, session, monkeypatch):
    sent = []
    monkeypatch.setattr(rail, "send", lambda content, buffers: sent.append((content, buffers)))
    first = str(session.pairs["sample_id"].iloc[0])
    say(rail, do="thumbnails", of=[first, "x", 3])
    ((content, buffers),) = sent
    assert content == {"thumbnails": [[first, 2]]} and len(buffers) == 2
    assert max(Image.open(io.BytesIO(buffers[0])).size) <= THUMBNAIL


def test_the_gauge_says_what_is_patched(rail, session):
    example = session.example
    assert rail.state["gauge"]["effect"] is None
    session.report(Patched(0.25, "red", "image", "head 1.2"))
    told = rail.state["gauge"]
    assert (told["effect"], told["answer"], told["text"], told["corruption"]) == (0.25, "red", "head 1.2", "image")
    token = session.model.answer_token(example.options[0])
    by_hand = {"clean": example.answer(), "corrupt": example.answer("image")}
    assert told["probability"] == {
        run: pytest.approx(answer.logits.softmax(-1)[token].item()) for run, answer in by_hand.items()
    }
    session.report(Patched(math.nan, "red", "image", ""))
    assert gauge_of(session)["effect"] is None, "there is no place between two answers that are the same"
    session.choose(session.pairs["sample_id"].iloc[1])
    assert rail.state["gauge"]["effect"] is None


def test_a_fault_of_the_program_is_a_sentence_too(rail):
    def fail():
        raise ZeroDivisionError("division by zero")

    rail.act("dividing", fail)
    assert rail.error == "It failed (ZeroDivisionError: division by zero): choose something else, or report it."
    rail.act("", lambda: (_ for _ in ()).throw(VlmtraceError("A sentence.")))
    assert rail.error == "A sentence." and rail.doing == ""
