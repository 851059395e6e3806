"""Faithfulness as a ratio of means, its areas and the smallest size that suffices, worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.circuits.curves import faithfulness_means, faithfulness_summary


def by_hand(n_pairs: int = 12, gaps=None) -> pd.DataFrame:
    """Curves of sizes 0, 4 and 16, the same for all pairs but for ±0.01 in the middle, as shares of a pair's gap."""
    curves = {
        ("sufficiency", "ranked", 0): [0.0, 0.8, 1.0],
        ("sufficiency", "random", 0): [0.0, 0.25, 1.0],
        ("sufficiency", "random", 1): [0.0, 0.85, 1.0],
        ("necessity", "ranked", 0): [1.0, 0.4, 0.0],
        ("necessity", "random", 0): [1.0, 0.75, 0.0],
        ("necessity", "random", 1): [1.0, 0.65, 0.0],
    }
    gaps = np.full(n_pairs, 5.0) if gaps is None else np.asarray(gaps)
    rows = [
        (f"pair-{i}", *key, k, -2 + gaps[i] * (value + 0.01 * (-1) ** i * (0 < k < 16)), -2.0, -2 + gaps[i])
        for key, values in curves.items()
        for i in range(len(gaps))
        for k, value in zip((0, 4, 16), values, strict=True)
    ]
    columns = ["sample_id", "direction", "order", "draw", "k", "logit_diff", "logit_diff_none", "logit_diff_all"]
    return pd.DataFrame(rows, columns=columns).assign(corruption="image", run="frozen")


def test_faithfulness_is_a_ratio_of_means():
    """Of pairs with a small gap nothing is restored: a mean of ratios would be 1/2, the ratio of means is .9."""
    ends = {"logit_diff_none": 0.0, "logit_diff_all": [9.0, 1.0] * 10}
    table = pd.DataFrame({"sample_id": [f"p{i}" for i in range(20)], "logit_diff": [9.0, 0.0] * 10, **ends, "k": 1})
    table = table.assign(corruption="image", run="frozen", direction="sufficiency", order="ranked", draw=0)
    assert faithfulness_means(table)["faithfulness"].tolist() == pytest.approx([0.9])


def test_text_corruption_is_measured_against_what_all_heads_give():
    """All heads clean give .3 of the clean-corrupt gap, so .09 of it is three tenths, not 9 %."""
    table = by_hand()
    text = table.assign(logit_diff=table["logit_diff_none"] + 0.3 * (table["logit_diff"] - table["logit_diff_none"]))
    text["logit_diff_all"] = table["logit_diff_none"] + 0.3 * (table["logit_diff_all"] - table["logit_diff_none"])
    columns = ["faithfulness", "ci_low", "ci_high"]
    pd.testing.assert_frame_equal(faithfulness_means(text)[columns], faithfulness_means(table)[columns])


def test_summary_by_hand():
    summary = faithfulness_summary(by_hand()).set_index(["direction", "order"])
    # By trapezoids over 0, ¼, 1 a curve a, b, c has the area a/8 + b/2 + 3c/8.
    assert summary["area"].to_dict() == pytest.approx(
        {
            ("sufficiency", "ranked"): 0.375 + 0.4,
            ("sufficiency", "random"): 0.375 + 0.275,
            ("necessity", "ranked"): 0.125 + 0.2,
            ("necessity", "random"): 0.125 + 0.35,
        }
    )
    # |1 − f| is 1, .2, 0: 1/8 + .1; of the random orders' mean 1, .45, 0.
    assert summary.xs("sufficiency")["cmd"].to_dict() == pytest.approx({"ranked": 0.225, "random": 0.35})
    assert summary.xs("necessity")["cmd"].isna().all()
    ranked = summary.xs("ranked", level="order")
    assert ranked["advantage"].to_dict() == pytest.approx({"sufficiency": 0.125, "necessity": 0.15})
    assert (ranked["p_value"] < 0.001).all()
    assert ranked["n_beaten"].to_dict() == {"sufficiency": 1, "necessity": 2}
    assert set(ranked["n_random"]) == {2}
    random = summary.xs("random", level="order")
    assert random[["advantage", "p_value", "n_beaten"]].isna().all(axis=None)
    assert (summary["area_low"] < summary["area"]).all() and (summary["area"] < summary["area_high"]).all()


def test_overshoot_counts_in_cmd_and_is_hidden_in_the_area():
    table = by_hand().query("order == 'ranked' and direction == 'sufficiency'")
    table = table.assign(logit_diff=table["logit_diff"].where(table["k"] != 4, -2 + 5 * 1.6))
    summary = faithfulness_summary(table).iloc[0]
    assert summary["area"] == pytest.approx(0.375 + 0.8)
    assert summary["cmd"] == pytest.approx(0.125 + 0.3)


def test_smallest_size_that_suffices_by_estimate_and_for_sure():
    table = by_hand()
    summary = faithfulness_summary(table).set_index(["direction", "order"])
    assert summary.loc[("sufficiency", "ranked"), "k_80"] == 4, ".80 on average reaches .8"
    assert summary.loc[("sufficiency", "ranked"), "k_80_sure"] == 16, "its interval does not"
    assert summary.loc[("necessity", "ranked"), "k_80"] == 16, ".4 is left at 4, 0 at 16"
    never = faithfulness_summary(table[table["k"] < 16].query("order == 'random'")).set_index("direction")
    assert never["k_80"].isna().all(), "a size that is never reached is missing"


def test_worse_than_random_is_a_negative_advantage():
    table = by_hand()
    table["order"] = table["order"].map({"ranked": "random", "random": "ranked"})
    table = table[(table["order"] == "random") | (table["draw"] == 0)]
    ranked = faithfulness_summary(table).query("order == 'ranked'")
    assert ranked["advantage"].to_list() == pytest.approx([-0.275, -0.175])
    assert ranked["n_beaten"].to_list() == [0, 0]


def test_curves_by_hand():
    curves = faithfulness_means(by_hand()).set_index(["direction", "order", "k"])
    assert curves.loc[("sufficiency", "random", 4), "faithfulness"] == pytest.approx(0.55)
    assert curves.loc[("necessity", "ranked", 4), "faithfulness"] == pytest.approx(0.4)
    low, high = curves.loc[("sufficiency", "ranked", 4), ["ci_low", "ci_high"]]
    assert 0.79 < low < 0.8 < high < 0.81
    assert set(curves["n"]) == {12} and set(curves["n_units"]) == {12}


def test_pairs_of_a_unit_are_averaged_first():
    """A pair and its copy are one observation: the interval must not shrink, and n_units tells."""
    generator = np.random.default_rng(0)
    table = by_hand()
    noise = table["sample_id"].map(dict(zip(table["sample_id"].unique(), generator.normal(size=12), strict=True)))
    table["logit_diff"] += noise * (table["k"] == 4)
    copies = table.assign(sample_id=table["sample_id"] + "-mirrored")
    both = pd.concat([table, copies], ignore_index=True)
    both["unit"] = both["sample_id"].str.removesuffix("-mirrored")
    once, twice = faithfulness_means(table), faithfulness_means(both)
    assert set(twice["n"]) == {24} and set(twice["n_units"]) == {12}
    columns = ["faithfulness", "ci_low", "ci_high"]
    pd.testing.assert_frame_equal(once[columns], twice[columns])


def test_without_a_gap_there_is_no_faithfulness():
    table = by_hand()
    same = table.assign(logit_diff_all=table["logit_diff_none"] + np.where(table["sample_id"] < "pair-5", 1, -1))
    assert faithfulness_means(same)[["faithfulness", "ci_low", "ci_high"]].isna().all(axis=None)
    assert faithfulness_summary(same)["k_80"].isna().all()


def test_tasks_stay_apart_and_may_have_other_sizes():
    table = by_hand()
    both = pd.concat([table.assign(task="a"), table[table["k"] < 16].assign(task="b")], ignore_index=True)
    summary = faithfulness_summary(both).set_index(["task", "direction", "order"])["area"]
    assert summary["a", "sufficiency", "ranked"] == pytest.approx(0.775)
    assert summary["b", "sufficiency", "ranked"] == pytest.approx(0.4)


def test_without_random_heads_there_is_no_advantage():
    summary = faithfulness_summary(by_hand().query("order == 'ranked'"))
    assert list(summary["area"]) == pytest.approx([0.775, 0.325])
    assert summary[["advantage", "p_value"]].isna().all(axis=None)


def test_a_missing_ld_names_its_pair():
    table = by_hand()
    table.loc[table["sample_id"] == "pair-2", "logit_diff_all"] = np.nan
    with pytest.raises(VlmtraceError, match="no LD for a run of pair 'pair-2'"):
        faithfulness_means(table)


@pytest.mark.parametrize("function", [faithfulness_means, faithfulness_summary])
def test_no_rows_are_one_sentence(function):
    with pytest.raises(VlmtraceError, match="faithfulness table has no rows: run faithfulness_table"):
        function(by_hand()[:0])
