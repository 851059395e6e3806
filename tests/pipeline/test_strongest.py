"""The strongest findings: picked on some pairs, measured on others, and told with their doubts."""

import numpy as np
import pandas as pd
import pytest
from fixtures.contract import complete

from vlmtrace.core import paths
from vlmtrace.core.files import write_table
from vlmtrace.pipeline.candidates import (
    Candidate,
    knockout_candidates,
    module_candidates,
    region_candidates,
    strongest_first,
)
from vlmtrace.pipeline.runs import open_run
from vlmtrace.pipeline.strongest import heads_in_words, strongest_findings, typical_pair, what, where_heads_act

USE = pd.Series({f"p{i}": "discover" if i < 6 else "verify" for i in range(12)})


def candidate(mean, spread=0.01, n=8, kind="region", task="t"):
    effects = pd.DataFrame({"sample_id": [f"p{i}" for i in range(n)], "effect": mean + spread * np.linspace(-1, 1, n)})
    place = {"block": "vision_encoder", "module": "residual", "layer": 3, "token_role": "object"}
    return Candidate(kind, task, "image", place, effects.assign(unit=effects["sample_id"]))


def sites(*rows):
    """Effects of every pair at sites: module, layer, role, on discover pairs, on verify pairs."""
    found = [
        {"sample_id": pair, "corruption": "image", "block": "text_encoder", "module": module, "layer": layer,
         "token_role": role, "patching_effect": (discover if use == "discover" else verify) + 0.001 * i}
        for module, layer, role, discover, verify in rows
        for i, (pair, use) in enumerate(USE.items())
    ]  # fmt: skip
    return pd.DataFrame(found)


def test_a_site_is_picked_on_discover_pairs_and_measured_on_verify_pairs():
    table = sites(
        ("self_attention", 0, "correct", 0.5, 0.1),
        ("self_attention", 1, "correct", 0.2, 0.9),
        ("residual", 1, "correct", 1.0, 1.0),
        ("mlp", 1, "?", -0.1, 0.5),
    )
    (one,) = module_candidates(table, USE, "t")
    assert (one.place["layer"], one.place["module"], one.measured["n"]) == (0, "self_attention", 6)
    assert one.measured["mean"] == pytest.approx(0.1 + 0.0085), "the mean of the verify pairs"


def test_what_holds_everything_by_construction_is_no_candidate():
    table = sites(
        ("residual", 3, "image", 1.0, 1.0), ("residual", 3, "changed", 1.0, 1.0), ("residual", 3, "object", 0.4, 0.4),
        ("residual", 0, "object", 0.9, 0.9), ("mlp", 3, "object", 0.9, 0.9),
    ).assign(block="vision_encoder")  # fmt: skip
    (one,) = region_candidates(table, USE, "t")
    assert (one.place["layer"], one.place["token_role"]) == (3, "object"), "the last layer, and no whole image"
    assert one.measured["mean"] == pytest.approx(0.4 + 0.0085), "of the residual stream alone"


def test_regions_that_nothing_reads_any_more_are_no_candidates():
    """Behind the last layer of a decoder-only model an image token has no effect, of any module."""
    tiny = 1e-7
    table = sites(("residual", 3, "object", tiny, tiny), ("mlp", 3, "background", tiny, tiny))
    assert not [*region_candidates(table.assign(block="language_model"), USE, "t")]


def test_a_knockout_counts_what_is_lost():
    table = sites(("cross_attention", 2, "image → options", -0.4, -0.3), ("image_embeddings", 0, "image", -1.0, -1.0))
    (one,) = knockout_candidates(table, USE, "t")
    assert one.measured["mean"] == pytest.approx(0.3 - 0.0085)
    assert what(one) == "Cutting the attention of the options to the image in layer 2 of the text encoder"


@pytest.mark.parametrize(
    ("tokens", "said", "layers"),
    [
        (("4 layers", "6 layers"), "in 4 layers around layer 1 of", [0, 1, 2, 3]),
        (("6 layers", "6 layers"), "in 6 layers around layer 1 of", [0, 1, 2, 3, 4, 5]),
        (("3 layers: 0, 1, 5", "3 layers: 1, 5, 6"), "in 3 layers around layer 1 of", [0, 1, 5]),
        (("1 layers", "1 layers"), "in layer 1 of", [1]),
    ],
)
def test_attention_cut_in_a_window_names_the_whole_window(tokens, said, layers):
    table = sites(("self_attention", 1, "image → last", -0.9, -0.9), ("self_attention", 5, "image → last", -0.1, -0.1))
    table["token"] = table["layer"].map(dict(zip((1, 5), tokens, strict=True)))
    (one,) = knockout_candidates(table, USE, "t")
    assert said in what(one) and one.place["layers"] == layers


def test_the_strongest_is_the_one_that_is_surest_to_be_large():
    sure, unsure = candidate(0.5), candidate(0.7, spread=2.0)
    assert strongest_first([unsure, sure]) == [sure, unsure]
    assert sure.counts and not unsure.counts
    assert not candidate(0.5, n=4).counts, "four units are too few"
    assert not candidate(0.015, spread=0.001).counts, "smaller than what counts for a head"


def test_units_count_once():
    one = candidate(0.5)
    one.effects["unit"] = ["a", "a", "b", "c", "d", "e", "f", "g"]
    assert (one.measured["n"], one.measured["n_units"]) == (8, 7)


def test_many_heads_are_named_in_part():
    heads = [{"module": "cross_attention", "layer": 1, "head": head} for head in range(7)]
    assert heads_in_words(heads) == "Seven cross-attention heads (1.0, 1.1, 1.2, 1.3 and 3 more)"
    assert heads_in_words(heads[:1]) == "One cross-attention head (1.0)"
    mixed = [heads[0], {**heads[1], "module": "self_attention"}]
    assert heads_in_words(mixed) == "Two heads (cross-attention 1.0 and self-attention 1.1)"


def test_heads_act_where_more_than_half_of_their_effect_is():
    def rows(**effects):
        return pd.DataFrame({"token_role": list(effects), "sample_id": "a", "patching_effect": list(effects.values())})

    assert where_heads_act(rows(correct=0.6, incorrect=0.4)) == "the correct option"
    assert where_heads_act(rows(correct=0.4, incorrect=0.3, noun=0.3)) == "the correct option and the incorrect option"
    assert where_heads_act(rows(correct=0.25, incorrect=0.25, noun=0.25, verb=0.25)) == "", "everywhere is nowhere"
    assert where_heads_act(rows(correct=-0.4, noun=0.1)) == ""


def test_the_pair_beside_a_finding_is_no_showpiece():
    effects = pd.DataFrame({"sample_id": ["a", "b", "c"], "effect": [0.0, 0.4, 1.0]})
    assert typical_pair(effects) == "b"


@pytest.fixture
def told(tmp_path, monkeypatch):
    """The findings of a run with these tables of one task."""
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    run = open_run("r")

    def findings(**tables):
        for name, table in tables.items():
            write_table(complete(name, table), run.path(name, "t"))
        selected = pd.DataFrame({"sample_id": USE.index, "split_use": USE.to_numpy(), "task": "t"})
        return strongest_findings(run, ["t"], selected)

    return findings


def test_what_is_not_told_apart_is_named_so_that_it_is_another(told):
    """One candidate a module: all of them are of the same task and corruption."""
    table = sites(*[(module, 2, "correct", 0.5, 0.5) for module in ("self_attention", "cross_attention", "mlp")])
    (finding,) = told(module_patching=table)["findings"]
    others = finding["beside"].removeprefix("Not told apart from: ").split("; ")
    assert len(others) == 2 and all(", t, image corruption 0.51 [" in other for other in others), others
    named = {other.split(" in layer")[0] for other in others} | {finding["sentence"].split(" in layer")[0].lower()}
    assert named == {"the self-attention", "the cross-attention", "the mlp"}


def test_how_many_more_are_not_told_apart_is_said(told):
    roles = ("image → options", "image → all", "options → all", "object", "background")
    modules = ("self_attention", "cross_attention", "mlp", "image_embeddings", "residual")
    table = sites(*[(module, 2, role, -0.5, -0.5) for module, role in zip(modules, roles, strict=True)])
    (finding,) = told(knockouts=table)["findings"]
    assert finding["beside"].endswith("; and 2 more.")


@pytest.mark.parametrize(("block", "within"), [("language_model", "language_model"), ("vision_encoder", "")])
def test_regions_that_are_not_compared_are_told(told, block, within):
    table = sites(("residual", 3, "object", 0.4, 0.4)).assign(block=block)
    assert told(regions=table)["regions_within"] == within
    assert told()["regions_within"] == within, "of the tables that are there"
