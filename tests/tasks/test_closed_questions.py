"""Tables of closed questions become pairs; every row that does not is named with the reason."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.tasks.closed_questions import answer_of


@pytest.fixture
def folder(tmp_path):
    for number in range(8):
        pixels = np.full((16, 16, 3), 20 * number + 10, dtype=np.uint8)
        pixels[4:8] = 255
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    Image.open(tmp_path / "0.png").save(tmp_path / "copy of 0.png", compress_level=0)
    return tmp_path


def write(folder, rows, name="questions.csv"):
    pd.DataFrame(rows).to_csv(folder / name, index=False)
    return folder / name


def test_yes_and_no_as_in_pope(folder):
    """Rows that ask for one thing in several images; one has no partner, one no answer."""
    answers = ["yes", "no", "no", "Yes", "yes"]
    rows = [
        {"image": f"{i}.png", "text": "Is there a dog?", "label": answer, "category": "random"}
        for i, answer in enumerate(answers)
    ]
    rows += [{"image": "5.png", "text": "Is there a cat?", "label": "maybe", "category": "random"}]
    prepared = vt.prepare_pairs("closed_questions", root=write(folder, rows))
    pairs = prepared.pairs
    assert len(pairs) == 2 and set(pairs["category"]) == {"random"}
    for pair in pairs.to_dict("records"):
        shown = {name: answers[int(pair[f"{name}_image"].split("/")[-1][0])].lower() for name in ("clean", "corrupt")}
        assert (pair["correct_answer"], pair["incorrect_answer"]) == (shown["clean"], shown["corrupt"])
        assert pair["clean_prompt"] == pair["corrupt_prompt"] == "Is there a dog?"
        assert pair["correct_first"] == (pair["correct_answer"] == "yes")
    assert pairs["correct_first"].sum() == 1, "yes and no are right equally often"
    reasons = prepared.set_aside["reason"].tolist()
    assert sum("no other row asks" in reason for reason in reasons) == 1
    assert sum("'maybe' is neither yes nor no nor a letter" in reason for reason in reasons) == 1
    assert prepared.filters["rows_in"].iloc[0] == 6


def test_letters_as_in_mmvp(folder):
    """Choices in a column of their own, pairs by number; the same question twice stays in its pair."""
    question = {"Question": "Is the door open?", "Options": "(a) Open (b) Closed"}
    rows = [
        {"image": f"{i}.png", **question, "Correct Answer": f"({letter})", "pair": i // 2}
        for i, letter in enumerate("abba")
    ]
    pairs = vt.load_pairs("closed_questions", root=write(folder, rows))
    assert set(pairs["clean_prompt"]) == {"Is the door open? (a) Open (b) Closed"}
    assert {frozenset((a, b)) for a, b in zip(pairs["correct_answer"], pairs["incorrect_answer"], strict=True)} == {
        frozenset("ab")
    }
    numbers = [
        {int(path.split("/")[-1][0]) for path in pair[["clean_image", "corrupt_image"]]} for _, pair in pairs.iterrows()
    ]
    assert sorted(map(sorted, numbers)) == [[0, 1], [2, 3]]


def test_an_image_with_two_answers_stands_on_neither_side(folder):
    """It is set aside whatever its path, the question's case, or the pair; the others go together."""
    asked = [
        ("0.png", "Is this a dog?", "yes", ""),
        ("./0.png", "Is THIS a dog?", "no", "x"),
        ("1.png", "Is this a dog?", "yes", ""),
        ("2.png", "Is this a dog?", "no", ""),
        ("2.png", "Is this a dog?", "no", ""),
        ("0.png", "Is this a cat?", "no", ""),
        ("3.png", "Is this a cat?", "yes", ""),
    ]
    rows = [dict(zip(("image", "question", "answer", "pair"), row, strict=True)) for row in asked]
    prepared = vt.prepare_pairs("closed_questions", root=write(folder, rows))
    shown = [
        sorted(path.split("/")[-1] for path in pair)
        for pair in prepared.pairs[["clean_image", "corrupt_image"]].to_numpy()
    ]
    assert sorted(shown) == [["0.png", "3.png"], ["1.png", "2.png"]]
    reasons = prepared.set_aside["reason"].tolist()
    assert reasons.count("the image has several answers") == 2 and len(reasons) == 3


def test_columns_as_in_amber(folder):
    rows = [
        {"image": "0.png", "query": "Is the sky blue?", "truth": "yes", "type": "attribute"},
        {"image": "1.png", "query": "Is the sky blue?", "truth": "no", "type": "attribute"},
    ]
    pairs = vt.load_pairs("closed_questions", root=write(folder, rows).parent)
    assert pairs["category"].tolist() == ["attribute"]
    model = vt.load_model("tiny-blip")
    with pytest.warns(UserWarning, match="pairs of images alone"):
        assert len(vt.evaluate(model, pairs)) == 1
    led = vt.reword(pairs, "The answer is {answer}. {question}", "misleading", misleading=True)
    assert led["clean_prompt"].iloc[0] == "The answer is no. Is the sky blue?"


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"image": "0.png", "question": "Is it?"}], "no CSV|has no column 'answer'|lacks"),
        ([{"image": "0.png", "question": "Is it?", "answer": "yes"}], "makes no pair"),
        (
            [{"image": f"{i}.png", "question": "Is it?", "answer": a} for i, a in enumerate("ab")],
            "names no choice 'a'",
        ),
        (
            [{"image": "0.png", "question": "Is it?", "answer": a} for a in ("yes", "no")],
            "the image has several answers",
        ),
        (
            [{"image": f"{i}.png", "question": "Is it?", "answer": a} for i, a in (("0", "yes"), ("copy of 0", "no"))],
            "same picture",
        ),
        (
            [{"image": f"gone{a}.png", "question": "Is it?", "answer": a} for a in ("yes", "no")],
            "the image file is missing",
        ),
    ],
)
def test_what_cannot_be_used_gets_a_sentence(folder, rows, sentence):
    with pytest.raises(VlmtraceError, match=sentence) as raised:
        vt.load_pairs("closed_questions", root=write(folder, rows))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "expected"), [("YES.", "yes"), ("(B)", "b"), ("c)", "c"), ("1", ""), ("", ""), ("yes and no", "")]
)
def test_answers_are_read_as_they_are_meant(text, expected):
    assert answer_of(text) == expected
