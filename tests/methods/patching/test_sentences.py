"""Sentences about patching: they name the site with the largest effect, with the numbers of other pairs."""

import numpy as np
import pandas as pd
import pytest

from vlmtrace.core import stats
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.patching import describe_directions, describe_regions, describe_sites

PAIRS = pd.DataFrame({"sample_id": list("abcdefgh"), "split_use": ["discover"] * 4 + ["verify"] * 4})


def sites(effects, pairs=PAIRS):
    """One row per pair and layer of one module; `effects` is by layer, and verify pairs have half of it."""
    rows = [
        {"sample_id": pair.sample_id, "corruption": "image", "block": "text_encoder", "module": "cross_attention",
         "layer": layer, "token_role": "correct",
         "patching_effect": effect * (1 if pair.split_use == "discover" else 0.5) + 0.01 * number}
        for number, pair in enumerate(pairs.itertuples())
        for layer, effect in enumerate(effects)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_site_is_chosen_on_some_pairs_and_measured_on_others():
    table = sites([0.1, 0.6, 0.2])
    verify = 0.3 + 0.01 * np.arange(4, 8)
    (low,), (high,) = stats.mean_interval(verify)
    said = describe_sites(table, PAIRS)
    assert said.startswith("Text encoder, image corruption (chosen on four pairs, measured on four pairs):")
    assert f"cross-attention: most at the correct option in layer 1, 0.35 [{low:.2f}, {high:.2f}]." in said
    assert f"{np.mean(verify):.2f}" in ("0.35", "0.36")


def test_an_effect_against_the_answer_is_found_by_its_size():
    assert "in layer 2, −0." in describe_sites(sites([0.1, 0.2, -0.6]), PAIRS)


def test_no_site_is_told_where_all_effects_are_small():
    table = sites([0.0, 0.0]).assign(patching_effect=0.001)
    assert "cross-attention: no mean effect reaches 0.02 in size, in any layer." in describe_sites(table, PAIRS)


def test_what_the_same_pairs_choose_and_measure_is_told_without_an_interval():
    said = describe_sites(sites([0.4, 0.1]).query("sample_id == 'a'"), PAIRS)
    assert "chosen and measured on the same one pair, so the numbers may be too large" in said
    assert "0.40 (picked on these pairs)" in said
    assert "[" not in describe_sites(sites([0.4, 0.1]))


@pytest.mark.parametrize("describe", [describe_sites, describe_regions])
def test_no_effect_is_a_sentence(describe):
    table = sites([0.1])
    for empty in (table[:0], table.assign(patching_effect=np.nan)):
        assert describe(empty).startswith("No pair has an effect")
    with pytest.raises(VlmtraceError, match="patching_effect"):
        describe(table.drop(columns="patching_effect"))


def test_a_region_is_told_in_the_first_and_the_last_layer():
    table = sites([0.5, 0.2, 0.1]).assign(token_role="object")
    lines = describe_regions(table).splitlines()
    means = table.groupby("layer")["patching_effect"].mean()
    assert "layer 0 and layer 2" in lines[0]
    first, last = lines[1].removeprefix("- object: ").split("; ")
    assert first.startswith(f"{means[0]:.2f} [") and last.startswith(f"{means[2]:.2f} [")


def test_both_directions_are_summed_over_a_block():
    rows = [
        {"sample_id": pair, "corruption": "image", "direction": way, "block": "text_decoder",
         "module": "self_attention", "layer": 0, "head": head, "patching_effect": effect}
        for pair in "abc"
        for way, effects in (("denoising", (0.5, 0.3)), ("noising", (0.1, 0.3)))
        for head, effect in enumerate(effects)
    ]  # fmt: skip
    said = describe_directions(pd.DataFrame(rows))
    assert (
        "two heads of the text decoder: what they restore one by one sums to 0.80; what is lost without each, to 0.40."
        in said
    )
    assert "Of 2 heads, self-attention 0.0 of the text decoder restores the most beyond" in said
    assert "0.50 against 0.10, a difference of 0.40 (picked on these pairs)." in said
