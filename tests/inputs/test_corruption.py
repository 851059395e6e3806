"""Symmetric token replacement keeps the length and never gives the answer away."""

import numpy as np
import pandas as pd
import pytest

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.inputs.corruption import run_inputs, shifted_token, token_mismatch
from vlmtrace.inputs.pair_rows import images_alone
from vlmtrace.inputs.pair_runs import encode_pair
from vlmtrace.tasks.building.token_replacement import symmetric_token_replacement

PROMPT = "Is this red square red or blue?"
POOL = ["red", "blue", "green", "yellow", "striped", "square", "crimson", "navy"]
SYNONYMS = {"red": ["crimson"], "navy": ["blue"]}


def pieces(word: str) -> int:
    return 2 if word == "striped" else 1


def replace(prompt=PROMPT, options=("red", "blue"), pool=POOL, seed=0):
    return symmetric_token_replacement(prompt, options, pool, pieces, np.random.default_rng(seed), SYNONYMS)


def test_replacements_are_no_option_no_synonym_no_word_of_the_prompt_and_as_long():
    found = {replace(seed=seed) for seed in range(20)}
    assert found == {
        "Is this green square green or yellow?",
        "Is this yellow square yellow or green?",
    }, "only green and yellow are left: crimson and navy are synonyms, square is in the prompt, striped is longer"


def test_same_seed_same_prompt():
    assert replace(seed=3) == replace(seed=3)


@pytest.mark.parametrize(
    ("options", "pool", "sentence"),
    [
        (("red", "blue"), ["green"], "'blue' has no replacement"),
        (("red", "pink"), POOL, "'pink' does not stand in it"),
    ],
)
def test_what_cannot_be_replaced_is_said(options, pool, sentence):
    with pytest.raises(VlmtraceError, match=sentence):
        replace(options=options, pool=pool)


def test_runs_differ_in_image_or_prompt_only(random_blip, random_pairs):
    pair = random_pairs.iloc[[0]]
    clean, image, text = (run_inputs(random_blip, pair, run) for run in ("clean", "image", "text"))
    assert (clean["input_ids"] == image["input_ids"]).all() and (clean["pixel_values"] != image["pixel_values"]).any()
    assert (clean["pixel_values"] == text["pixel_values"]).all() and (
        clean["input_ids"] != text["input_ids"]
    ).sum() == 2


def test_token_mismatch_names_both_lengths(random_blip):
    pair = {"clean_prompt": "is this red or blue?", "corrupt_prompt": "is this striped or green?"}
    assert "has 8 tokens" in token_mismatch(random_blip, pair) and "has 9" in token_mismatch(random_blip, pair)


# Word by word ------------------------------------------------------------


@pytest.mark.parametrize(
    ("clean", "corrupt", "expected"),
    [
        ("a b c d", "a b c d", None),
        ("is r or b ?", "is g or y ?", None),
        ("is r or b ?", "is b or r ?", None),  # options swapped: both are replaced, nothing is shifted
        ("is dog or the man ?", "is man or the cat ?", None),
        ("is s.t or u.v ?", "is w.x or t.u ?", None),  # pieces of replaced words are no words
        ("is s.t.u or r ?", "is u.s.t or b ?", None),
        ("is s.t now ?", "is r b now ?", None),  # two words in the place of one, the rest stays
        ("is r or s.t ?", "is s.t or b ?", (3, 1)),  # equally long, and everything between is shifted
        ("is r or s.t ?", "is w.x or b ?", (2, 3)),
        ("what is it ?", "is what it ?", (1, 0)),
        ("is s.t r ?", "is b w.x ?", (3, 2)),  # nothing in common between, but unlike words stand side by side
    ],
)
def test_words_that_are_not_replaced_stand_where_they_stood(clean, corrupt, expected):
    """By hand: blanks part words, points part the tokens of a word."""
    ids: dict[str, int] = {}

    def tokens(prompt):
        pieces = [(piece, i) for i, word in enumerate(prompt.split()) for piece in word.split(".")]
        return [ids.setdefault(piece, len(ids)) for piece, _ in pieces], [i for _, i in pieces]

    (first, first_words), (second, second_words) = tokens(clean), tokens(corrupt)
    assert len(first) == len(second), "the case proves nothing: the prompts are of unlike length"
    assert shifted_token(first, second, first_words, second_words) == expected


@pytest.mark.parametrize("name", ["tiny-blip", "tiny-llava"])
def test_prompts_of_equal_length_whose_words_are_shifted_are_refused(name):
    model = vt.load_model(name)
    pair = vt.load_pairs("rendered_states", n=1).iloc[0].to_dict()
    prompts = {
        "is this red or blue?": {
            "is this green or yellow?": True,
            "is this blue or red?": True,
            "is red this or blue?": False,
        },
        "is this red or striped?": {"is this green or dotted?": True, "is this dotted or green?": False},
    }
    for clean, corrupts in prompts.items():
        for corrupt, fits in corrupts.items():
            problem = token_mismatch(model, {"clean_prompt": clean, "corrupt_prompt": corrupt})
            assert model.count_tokens(clean) == model.count_tokens(corrupt), "these are of unlike length"
            assert (problem is None) == fits, f"{clean} | {corrupt}: {problem}"
            assert fits or "do not match word by word" in problem
    shifted = {**pair, "clean_prompt": clean, "corrupt_prompt": corrupt}
    shifted |= {"correct_answer": "red", "incorrect_answer": "striped"}
    table = pd.DataFrame([shifted, {**pair, "sample_id": "fits"}])
    usable, set_aside = vt.check_pairs(model, table)
    assert usable["sample_id"].tolist() == [pair["sample_id"], "fits"], "image corruption needs no corrupt prompt"
    assert images_alone(usable).tolist() == [True, False] and "word by word" in set_aside["reason"].iloc[0]
    usable, set_aside = vt.check_pairs(model, table, ["text"])
    assert usable["sample_id"].tolist() == ["fits"] and "word by word" in set_aside["reason"].iloc[0]
    with pytest.raises(VlmtraceError, match="do not match word by word"):
        encode_pair(model, table, 0, "text")
    # Under image corruption both runs read the clean prompt, so that there is nothing to align.
    clean_run, corrupt_run = encode_pair(model, table, 0, "image")
    assert (clean_run["input_ids"] == corrupt_run["input_ids"]).all()


@pytest.mark.parametrize("name", ["tiny-blip", "tiny-llava"])
def test_prompts_that_are_made_here_match_word_by_word(name):
    model = vt.load_model(name)
    for task in ("rendered_states", "rendered_svo"):
        pairs = vt.load_pairs(task, n=60)
        assert not [problem for pair in pairs.to_dict("records") if (problem := token_mismatch(model, pair))]
