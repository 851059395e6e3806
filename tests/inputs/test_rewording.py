"""Other questions about the same images."""

import pytest

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import validate_pairs


@pytest.fixture(scope="module")
def pairs():
    return vt.load_pairs("rendered_states", n=4, seed=0)


def test_a_leading_question_says_each_answer_in_one_prompt(pairs):
    template = "The {noun} is {answer}. {question}"
    leading = validate_pairs(vt.reword(pairs, template, "leading"))
    for old, new in zip(pairs.to_dict("records"), leading.to_dict("records"), strict=True):
        assert new["clean_prompt"] == f"The {old['noun']} is {old['correct_answer']}. {old['clean_prompt']}"
        assert new["corrupt_prompt"] == f"The {old['noun']} is {old['incorrect_answer']}. {old['clean_prompt']}"
        assert new["sample_id"] == old["sample_id"] + "-leading" and new["category"] == "leading"
        assert new["unit"] == old["unit"] and new["clean_image"] == old["clean_image"]
    misleading = vt.reword(pairs, template, misleading=True)
    assert misleading["clean_prompt"].tolist() == leading["corrupt_prompt"].tolist()
    assert misleading["corrupt_prompt"].tolist() == leading["clean_prompt"].tolist()
    assert misleading["sample_id"].tolist() == pairs["sample_id"].tolist()


def test_options_keep_their_order(pairs):
    again = vt.reword(pairs, "{a} or {b}?")
    for old, new in zip(pairs.to_dict("records"), again.to_dict("records"), strict=True):
        first, second = new["clean_prompt"].rstrip("?").split(" or ")
        assert old["clean_prompt"].index(first) < old["clean_prompt"].index(second)
        assert new["corrupt_prompt"] == new["clean_prompt"], "without {answer} these are pairs of images alone"


@pytest.mark.parametrize(
    ("prompt", "options", "sentence"),
    [
        ("What is it {", {}, "do not match"),
        ("Is the {thing} red?", {}, r"\{thing\} is no column"),
        ("Is the {noun.__class__} red?", {}, "is no column"),
        ("Is the {noun!r} red?", {}, "plain names"),
        ("Is the {subject} red?", {}, r"subject\} is no column|has no value"),
        ("Is it?", {"misleading": True}, r"put \{answer\} into the prompt"),
    ],
)
def test_templates_that_cannot_be_filled_get_a_sentence(pairs, prompt, options, sentence):
    with pytest.raises(VlmtraceError, match=sentence):
        vt.reword(pairs, prompt, **options)


def test_a_pair_without_a_value_is_named(pairs):
    with pytest.raises(VlmtraceError, match=r"'rendered_states-test-0-00001' has no value for the field \{noun\}"):
        vt.reword(pairs.assign(noun=["cross", None, "cross", "cross"]), "Is the {noun} red?")
