"""Symmetric token replacement keeps the length and never gives the answer away."""

import numpy as np
import pytest

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.inputs.corruption import run_inputs, token_mismatch
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
