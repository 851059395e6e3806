"""What a run's tables say."""

import numpy as np
import pandas as pd
import pytest

from vlmtrace.pipeline.findings import area_rows, circuit_rows, importance_rows, strongest_sites

SITE = {"corruption": "image", "block": "text_encoder"}


def sites(rows) -> pd.DataFrame:
    columns = ["sample_id", "module", "layer", "token_role", "patching_effect"]
    return pd.DataFrame(rows, columns=columns).assign(**SITE)


def selected(**use) -> pd.DataFrame:
    return pd.DataFrame({"sample_id": list(use), "split_use": list(use.values()), "task": "t"})


def test_the_strongest_site_is_that_of_the_mean_over_pairs():
    rows = [
        ("a", "residual", 0, "correct", 0.2),
        ("b", "residual", 0, "correct", 0.2),
        ("c", "residual", 0, "correct", 0.3),
        ("a", "residual", 1, "correct", 0.9),
        ("b", "residual", 1, "correct", -0.9),
        ("c", "residual", 1, "correct", 0.9),
        ("a", "mlp", 0, "?", -0.1),
        ("c", "mlp", 0, "?", 0.5),
    ]
    (site,) = strongest_sites(sites(rows), selected(a="discover", b="discover", c="verify"), "t")
    assert (site["module"], site["layer"], site["n"]) == ("residual", 0, 1)
    assert site["mean"] == pytest.approx(0.3), "verify pairs measure what discover pairs picked"


def test_the_strongest_of_many_sites_without_effect_is_measured_without_bias():
    """The maximum of 200 noisy means is far above 0 on the pairs that picked it; on other pairs it is about 0."""
    generator = np.random.default_rng(0)
    names = [f"p{i}" for i in range(40)]
    rows = [(name, "residual", layer, "correct", generator.normal()) for layer in range(200) for name in names]
    use = selected(**{name: "discover" if i % 2 else "verify" for i, name in enumerate(names)})
    (site,) = strongest_sites(sites(rows), use, "t")
    assert site["ci_low"] < 0 < site["ci_high"], "an effect that is not there was reported"
    assert (site["n"], site["n_units"]) == (20, 20)


def test_units_count_once_at_the_strongest_site():
    rows = [(name, "residual", 0, "correct", effect) for name, effect in zip("abcd", (0.5, 0.1, 0.1, 0.4), strict=True)]
    use = selected(a="discover", b="verify", c="verify", d="verify")
    (site,) = strongest_sites(sites(rows).assign(unit=["u", "v", "v", "w"]), use, "t")
    assert site["mean"] == pytest.approx((0.1 + 0.4) / 2) and (site["n"], site["n_units"]) == (3, 2)


def test_the_strongest_head_is_measured_on_other_pairs():
    head = {"block": "text_encoder", "module": "cross_attention", "layer": 1}
    heads = pd.DataFrame({"head": range(2), "mean_effect": [0.1, 0.5], "is_important": [False, True]})
    heads = heads.assign(task="t", corruption="image", n=8, n_units=4, detectable_effect=0.05, **head)
    verified = pd.DataFrame({"sample_id": ["c", "d"], "effect": [0.2, 0.4]})
    verified = verified.assign(task="t", corruption="image", head=1, **head)
    (row,) = importance_rows(heads, verified)
    assert (row["head"], row["pairs"], row["units"], row["n"]) == (1, 8, 4, 2)
    assert row["mean"] == pytest.approx(0.3) and row["notice"] is None and row["detectable"] == 0.05
    (row,) = importance_rows(heads, pd.DataFrame())
    assert np.isnan(row["mean"]), "without verify pairs there is no number, rather than that of the maximum"


def test_the_number_of_heads_that_suffice():
    rows = [
        (f"p{i}", direction, k, share + 0.001 * i)
        for i in range(8)
        for direction, shares in (("sufficiency", (0, 0.85, 1)), ("necessity", (1, 0.5, 0.25)))
        for k, share in zip((0, 2, 4), shares, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["sample_id", "direction", "k", "logit_diff"])
    table = table.assign(task="t", corruption="image", run="frozen", order="ranked", draw=0, logit_diff_none=0.0)
    (row,) = area_rows(table.assign(logit_diff_all=1.0))
    assert (row["k_80"], row["k_20"]) == (2, None), "a size that is never reached is None"


def test_the_two_runs_that_faithfulness_lies_between_are_means_over_units():
    """Faithfulness .5 of units u and v lies in the middle between the numbers that stand beside it."""
    cell = {"task": "t", "corruption": "image", "run": "frozen"}
    pairs = pd.DataFrame({"sample_id": ["a", "b", "c"], "unit": ["u", "u", "v"], "logit_diff_none": [-3.0, -1.0, 1.0]})
    curves = pairs.assign(logit_diff_all=[5.0, 5.0, 9.0], direction="sufficiency", **cell)
    circuits = pd.DataFrame([cell])
    (row,) = circuit_rows(circuits, curves)
    assert (row["ld_none"], row["ld_all"]) == (-0.5, 7.0)
    assert row["still_correct"] == pytest.approx(1 / 3), "this is a share of pairs"
    (row,) = circuit_rows(circuits, curves.drop(columns="unit"))
    assert (row["ld_none"], row["ld_all"]) == (pytest.approx(-1.0), pytest.approx(19 / 3))
