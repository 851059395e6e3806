"""What a run says of a module, from a table made for the purpose."""

import numpy as np
import pandas as pd
import pytest

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.circuits.module_facts import module_facts

PLACE = {"block": "text_encoder", "module": "mlp"}
MODULE = ("text_encoder", "mlp", 1)


@pytest.fixture
def run(tmp_path):
    """Four pairs of two units, two layers; two tokens of the role other, one noun; noising is to be left out."""
    (tmp_path / "states").mkdir()
    rows = [
        {"sample_id": f"p{i}", "unit": f"u{i % 2}", "corruption": "image", "direction": way, **PLACE, "layer": layer,
         "position": at, "token_role": role,
         "patching_effect": effect * (layer + 1) * (i + 1) * (1 if way == "denoising" else 9)}
        for i in range(4) for layer in range(2) for way in ("denoising", "noising")
        for at, role, effect in ((0, "other", 0.1), (1, "other", 0.2), (2, "noun", -0.05))
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "states" / "module_patching.parquet")
    return tmp_path


def test_means_are_over_units_of_sums_over_tokens_of_a_role(run):
    found = module_facts(run, "m", MODULE).effects.set_index("token_role")
    units = [np.mean([0.6 * 1, 0.6 * 3]), np.mean([0.6 * 2, 0.6 * 4])]  # .3 × 2 a pair, times its number
    assert found.loc["other", "mean_effect"] == pytest.approx(np.mean(units))
    assert found.index.tolist() == ["other", "noun"], "the strongest role stands first"
    assert found["rank"].tolist() == [1, 1] and found["n_layers"].tolist() == [2, 2]
    assert found["n_units"].tolist() == [2, 2] and found.loc["noun", "ci_low"] < found.loc["noun", "mean_effect"]
    assert module_facts(run, "m", (*MODULE[:2], 0)).effects["rank"].tolist() == [2, 2]


def test_only_the_roles_that_are_asked_for(run):
    facts = module_facts(run, "m", MODULE, ["noun"])
    assert facts.effects["token_role"].tolist() == ["noun"]
    assert facts.pairs["sample_id"].tolist() == ["p3", "p2", "p1", "p0"]
    assert facts.pairs["patching_effect"].iloc[0] == pytest.approx(-0.4)


def test_the_pairs_where_one_token_matters_most(run):
    pairs = module_facts(run, "m", MODULE, n_pairs=2).pairs
    assert pairs["sample_id"].tolist() == ["p3", "p2"] and pairs["patching_effect"].iloc[0] == pytest.approx(1.6)


def test_why_a_run_says_nothing(run, tmp_path):
    assert "No run is loaded" in module_facts(None, "m", MODULE).refused
    assert "has no table of this module" in module_facts(run, "m", (*MODULE[:2], 7)).refused
    assert "has no table of this module" in module_facts(run, "m", MODULE, ["verb"]).refused
    (run / "states" / "module_patching.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(VlmtraceError, match=r"module_patching\.parquet cannot be read"):
        module_facts(run, "m", MODULE)
