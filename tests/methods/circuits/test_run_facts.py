"""What a run says of a head, from tables made for the purpose."""

import json

import numpy as np
import pandas as pd
import pytest

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.circuits.run_facts import run_facts

PLACE = {"block": "text_encoder", "module": "cross_attention"}


@pytest.fixture
def run(tmp_path):
    """Two heads in the tables of means, three in those of whole heads, and effects of pairs."""
    folder = tmp_path / "made"
    (folder / "states").mkdir(parents=True)
    heads = pd.DataFrame(
        [
            {"task": "states", "corruption": c, **PLACE, "layer": 1, "head": h, "mean_effect": m, "ci_low": m - 0.1,
             "ci_high": m + 0.1, "n_units": 9}
            for c, means in {"image": [0.2, -0.5], "text": [0.4, 0.1]}.items() for h, m in enumerate(means)
        ]
    )  # fmt: skip
    heads.to_parquet(folder / "heads.parquet")
    rows = [
        {"sample_id": f"p{i}", "unit": f"u{i % 2}", "corruption": "image", "direction": way, **PLACE, "layer": 1,
         "head": h, "patching_effect": 0.1 * i * (h + 1) * (1 if way == "denoising" else 100)}
        for i in range(4) for h in range(3) for way in ("denoising", "noising")
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "states" / "whole_heads.parquet")
    single = [
        {
            "sample_id": f"p{i}",
            "corruption": c,
            **PLACE,
            "layer": 1,
            "head": 0,
            "position": at,
            "patching_effect": value,
        }
        for (i, c, at, value) in [
            (0, "image", 0, 0.5),
            (0, "image", 1, -0.2),
            (0, "text", 0, -0.9),
            (1, "image", 0, 0.4),
        ]
    ]
    pd.DataFrame(single).to_parquet(folder / "states" / "head_patching.parquet")
    functions = [{**PLACE, "layer": 1, "head": 0, "region": "object", "share": 0.3, "ratio": 2.0, "ratio_low": 1.5,
                  "ratio_high": 2.5, "function": "object detection"}]  # fmt: skip
    pd.DataFrame(functions).to_parquet(folder / "head_functions.parquet")
    return folder


def head(number):
    return ("text_encoder", "cross_attention", 1, number)


def test_the_mean_of_a_head_its_interval_and_rank(run):
    facts = run_facts(run, "m", head(1))
    found = facts.effects.set_index("corruption")
    assert found.loc["image", ["mean_effect", "ci_low", "ci_high"]].tolist() == pytest.approx([-0.5, -0.6, -0.4])
    assert found.loc["image", "rank"] == 1, "−.5 is larger than .2: the rank is of the absolute effect"
    assert found.loc["text", "rank"] == 2 and found.loc["text", "n_heads"] == 2
    assert set(facts.effects["table"]) == {"heads"} and facts.functions.empty and not facts.refused


def test_a_head_that_the_means_lack_is_looked_up_among_whole_heads(run):
    found = run_facts(run, "m", head(2)).effects.iloc[0]
    units = [np.mean([0.0, 0.6]), np.mean([0.3, 0.9])]  # pairs 0 and 2, 1 and 3; noising is left out
    assert found["mean_effect"] == pytest.approx(np.mean(units)) and found["rank"] == 1 and found["n_heads"] == 3
    assert found["n_units"] == 2 and found["table"] == "whole_heads"
    assert found["ci_low"] < found["mean_effect"] < found["ci_high"]


def test_the_pairs_where_a_head_matters_most(run):
    pairs = run_facts(run, "m", head(0)).pairs
    assert pairs["sample_id"].tolist() == ["p0", "p1"], "a pair stands once"
    assert pairs["patching_effect"].tolist() == pytest.approx([-0.9, 0.4]) and pairs["corruption"].iloc[0] == "text"
    whole = run_facts(run, "m", head(2), n_pairs=2).pairs
    assert whole["sample_id"].tolist() == ["p3", "p2"]
    assert whole["patching_effect"].tolist() == pytest.approx([0.9, 0.6])


def test_positions_are_summed(run):
    only = pd.read_parquet(run / "states" / "head_patching.parquet").query("corruption == 'image'")
    only.to_parquet(run / "states" / "head_patching.parquet")
    pairs = run_facts(run, "m", head(0)).pairs.set_index("sample_id")["patching_effect"]
    assert pairs["p0"] == pytest.approx(0.3) and pairs["p1"] == pytest.approx(0.4)


def test_functions_are_those_of_the_table(run):
    functions = run_facts(run, "m", head(0)).functions
    assert functions["function"].tolist() == ["object detection"] and functions["ratio"].tolist() == [2.0]


def test_why_a_run_says_nothing(run, tmp_path):
    assert "No run is loaded" in run_facts(None, "m", head(0)).refused
    assert run_facts(tmp_path / "not there", "m", head(0)).refused.startswith("There is no run 'not there' yet")
    stage = {"parameters": {"model": "tiny-blip"}}
    (run / "run.json").write_text(json.dumps({"made_from": {"06": stage, "05": stage}}))
    assert run_facts(run, "tiny-blip", head(0)).refused == ""
    assert run_facts(run, "tiny-llava", head(0)).refused.startswith("Run 'made' is of tiny-blip")
    (tmp_path / "empty").mkdir()
    assert "has no table of this head" in run_facts(tmp_path / "empty", "m", head(0)).refused


def test_a_broken_table_is_a_sentence(run):
    (run / "head_functions.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(VlmtraceError, match=r"head_functions\.parquet cannot be read"):
        run_facts(run, "m", head(0))
