"""Exact patches at some of the sites of an estimate."""

import numpy as np
import pandas as pd
import pytest

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.attribution import describe_spot_checks, spot_check

KEYS = ["sample_id", "block", "module", "layer", "position"]


@pytest.fixture(scope="module")
def model():
    return vt.load_model("tiny-llava")


@pytest.fixture(scope="module")
def pairs():
    return vt.load_pairs("rendered_states", n=2)


@pytest.mark.parametrize("kind", ["heads", "modules"])
def test_exact_effects_are_those_of_the_sweep(kind, model, pairs):
    estimate, sweep = getattr(vt, f"attribute_{kind}"), getattr(vt, f"patch_{kind}")
    positions = ["image", "last"]
    estimates = estimate(model, pairs, positions=positions)
    exact = sweep(model, pairs, positions=positions)
    keys = [*KEYS, "head"] if kind == "heads" else KEYS
    checks = spot_check(model, pairs, estimates, n=12)
    assert checks.groupby(["sample_id", "chosen"]).size().tolist() == [6] * 4
    for column, table in (("exact", exact), ("estimate", estimates)):
        expected = checks.merge(table[[*keys, "patching_effect"]], on=keys, how="left")["patching_effect"]
        np.testing.assert_allclose(checks[column], expected, atol=1e-4)
    assert checks["exact"].abs().max() > 0.01, "nothing was patched"


def test_the_strongest_are_those_with_the_largest_estimates(model, pairs):
    estimates = vt.attribute_heads(model, pairs, positions=["image"])
    checks = spot_check(model, pairs, estimates, n=5, seed=3)
    for sample, rows in checks.groupby("sample_id"):
        of_pair = estimates.loc[estimates["sample_id"] == sample, "patching_effect"].abs()
        strongest = rows.loc[rows["chosen"] == "strongest", "estimate"].abs()
        assert sorted(strongest) == pytest.approx(sorted(of_pair.nlargest(3)))
    again = spot_check(model, pairs, estimates, n=5, seed=3)
    pd.testing.assert_frame_equal(checks, again)


@pytest.mark.parametrize("column", ["token", "token_role", "position", "patching_effect"])
def test_a_column_that_estimates_lack_is_named(model, pairs, column):
    estimates = vt.attribute_heads(model, pairs.head(1), positions=["last"])
    with pytest.raises(VlmtraceError, match=column):
        spot_check(model, pairs.head(1), estimates.drop(columns=column))


def test_pairs_without_estimates_are_refused(model, pairs):
    estimates = vt.attribute_heads(model, pairs.head(1), positions=["last"])
    with pytest.raises(VlmtraceError, match="no row of the pair"):
        spot_check(model, pairs, estimates)
    with pytest.raises(VlmtraceError, match="under text corruption"):
        spot_check(model, pairs.head(1), estimates, corruption="text")


def test_the_sentences_are_those_of_the_numbers():
    checks = pd.DataFrame(
        {
            "corruption": "image",
            "chosen": ["strongest", "strongest", "strongest", "random"],
            "estimate": [0.4, -0.2, 0.3, 0.0],
            "exact": [0.2, -0.1, -0.15, 0.1],
        }
    )
    strongest, random = describe_spot_checks(checks).splitlines()
    assert "three sites with the largest estimates: mean size of the effect 0.150 exactly, 0.300 estimated" in strongest
    assert "2 of 3 have the same sign; they differ by 0.250 on average, at most by 0.450." in strongest
    assert "one site drawn at random" in random and "correlation" not in random
    assert describe_spot_checks(checks.head(0)) == "No site was checked."
