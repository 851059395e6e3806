"""Circuits of a random model keep their identities; summaries agree with numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest

import vlmtrace.methods.circuits.faithfulness as verification
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.circuits.faithfulness import (
    circuit_sizes,
    faithfulness_means,
    faithfulness_summary,
    faithfulness_table,
)
from vlmtrace.methods.circuits.heads import head_table, rank_heads
from vlmtrace.methods.evaluation.selection import USE
from vlmtrace.methods.patching.sweeps import patch_head_sets, patch_heads

FIRST = [("cross_attention", 2, 1), ("self_attention", 0, 3), ("cross_attention", 0, 0)]


def all_heads(model) -> list[tuple[str, int, int]]:
    """Every head of the head block, `FIRST` first."""
    block = model.head_block
    heads = [
        (module, layer, head)
        for module in block.head_modules
        for layer in range(block.n_layers)
        for head in range(block.n_heads)
    ]
    return FIRST + [head for head in heads if head not in FIRST]


def curve(table: pd.DataFrame, direction: str, order: str = "ranked") -> pd.DataFrame:
    chosen = table[(table["direction"] == direction) & (table["order"] == order)]
    return chosen.pivot_table(index="sample_id", columns="k", values="patching_effect", aggfunc="mean")


@pytest.fixture(scope="module")
def image_table(random_blip, random_pairs):
    return faithfulness_table(
        random_blip, random_pairs.head(3), all_heads(random_blip), n_random=3, sizes=[0, 2, 3, 24]
    )


def test_no_heads_give_the_corrupt_answer_and_all_heads_the_clean_one(image_table):
    sufficiency, necessity = curve(image_table, "sufficiency"), curve(image_table, "necessity")
    for table, none, everything in ((sufficiency, 0, 1), (necessity, 1, 0)):
        assert table[0].to_numpy() == pytest.approx(none, abs=1e-3)
        assert table[24].to_numpy() == pytest.approx(everything, abs=1e-3)
    for order in ("ranked", "random"):
        ends = curve(image_table, "sufficiency", order)[[0, 24]]
        assert ends.to_numpy() == pytest.approx(sufficiency[[0, 24]].to_numpy()), "all orders share their ends"


def test_each_size_is_the_run_with_just_these_heads(image_table, random_blip, random_pairs):
    pairs = random_pairs.head(3)
    for direction, reverse in (("sufficiency", False), ("necessity", True)):
        alone = patch_head_sets(random_blip, pairs, [FIRST[:2]], "image", reverse=reverse)
        assert curve(image_table, direction)[2].to_numpy() == pytest.approx(
            alone["patching_effect"].to_numpy(), abs=1e-3
        )


def test_tidy_rows(image_table):
    assert len(image_table) == 3 * 2 * (1 + 3) * 4
    counted = image_table.groupby(["order", "draw"]).size()
    assert counted.to_dict() == {("ranked", 0): 24, ("random", 0): 24, ("random", 1): 24, ("random", 2): 24}
    assert not image_table.duplicated(["sample_id", "direction", "order", "draw", "k"]).any()


def test_same_seed_same_random_heads(random_blip, random_pairs):
    runs = [
        faithfulness_table(random_blip, random_pairs.head(1), FIRST, "text", n_random=2, seed=seed)
        for seed in (5, 5, 6)
    ]
    pd.testing.assert_frame_equal(runs[0], runs[1])
    assert not np.allclose(runs[0]["patching_effect"], runs[2]["patching_effect"])


def test_random_heads_follow_the_modules_of_the_ranking(random_blip):
    ranked = [("cross_attention", 1, 0)] * 3 + [("self_attention", 0, 0)]
    orders = [verification._random_order(random_blip, ranked, np.random.default_rng(seed)) for seed in range(200)]
    for order in orders:
        assert [module for module, _, _ in order] == [module for module, _, _ in ranked]
        assert len(set(order)) == len(order), "a head was drawn twice"
    drawn = pd.Series([order[0] for order in orders]).value_counts()
    assert len(drawn) == 12, "a random head must come from all 3 layers × 4 heads of its module"


def test_sizes_of_circuits():
    assert circuit_sizes(64) == [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert circuit_sizes(5) == [0, 1, 2, 3, 4, 5]
    assert circuit_sizes(1) == [0, 1]


def test_pairs_that_found_the_heads_are_refused(random_blip, random_pairs):
    marked = random_pairs.assign(**{USE: ["discover", "verify"] * 4})
    with pytest.raises(VlmtraceError, match="4 of the 8 pairs helped to find the heads"):
        faithfulness_table(random_blip, marked, FIRST)
    verify = marked[marked[USE] == "verify"].head(1)
    assert set(faithfulness_table(random_blip, verify, FIRST, sizes=[1], n_random=0)["sample_id"]) == {"pair-1"}


@pytest.mark.parametrize(
    ("ranking", "sizes", "sentence"),
    [
        (FIRST, [0, 4], "between 0 and 3"),
        (FIRST, [], "between 0 and 3"),
        ([*FIRST, FIRST[0]], None, "each head once"),
        ([], None, "at least one head"),
        ([("mlp", 0, 0)], None, "choose one of self_attention, cross_attention"),
        ([("self_attention", 0, 4)], None, "has 3 layers of 4 heads"),
    ],
)
def test_bad_rankings_get_a_sentence(random_blip, random_pairs, ranking, sizes, sentence):
    with pytest.raises(VlmtraceError, match=sentence):
        faithfulness_table(random_blip, random_pairs.head(1), ranking, sizes=sizes)


def test_from_patched_heads_to_a_verdict(random_blip, random_pairs):
    """The tables fit into each other, and every head of the model is in the ranking once."""
    table = pd.concat(
        [
            patch_heads(random_blip, random_pairs.head(4), corruption, positions=["correct", "?"])
            for corruption in ("image", "text")
        ]
    )
    with pytest.warns(UserWarning, match="use more samples"):
        heads = head_table(table.assign(task="random"))
    assert len(heads) == 2 * 2 * 3 * 4 and set(heads["n"]) == {4}
    one = table[(table["corruption"] == "image") & (table["module"] == "cross_attention") & (table["layer"] == 1)]
    expected = one[one["head"] == 2].groupby("sample_id")["patching_effect"].sum().mean()
    row = heads.query("corruption == 'image' and module == 'cross_attention' and layer == 1 and head == 2")
    assert row["mean_effect"].item() == pytest.approx(expected)
    ranking = rank_heads(heads, "text")
    assert sorted(ranking[["module", "layer", "head"]].itertuples(index=False, name=None)) == sorted(
        all_heads(random_blip)
    )
    proof = faithfulness_table(random_blip, random_pairs.tail(2), ranking, "text", sizes=[0, 4, 24], n_random=2)
    summary = faithfulness_summary(proof.assign(task="random"))
    assert list(summary["direction"]) == ["sufficiency"] * 2 + ["necessity"] * 2
    assert np.isfinite(summary[["auc", "ci_low", "ci_high"]].to_numpy()).all()


# Summaries ----------------------------------------------------------------------------------------


def by_hand(n_pairs: int = 12) -> pd.DataFrame:
    """Curves of sizes 0, 4 and 16, the same for all pairs but for ±0.01 in the middle."""
    curves = {
        ("sufficiency", "ranked", 0): [0.0, 0.8, 1.0],
        ("sufficiency", "random", 0): [0.0, 0.25, 1.0],
        ("sufficiency", "random", 1): [0.0, 0.85, 1.0],
        ("necessity", "ranked", 0): [1.0, 0.4, 0.0],
        ("necessity", "random", 0): [1.0, 0.75, 0.0],
        ("necessity", "random", 1): [1.0, 0.65, 0.0],
    }
    rows = [
        (f"pair-{i}", *key, k, value + 0.01 * (-1) ** i * (0 < k < 16))
        for key, values in curves.items()
        for i in range(n_pairs)
        for k, value in zip((0, 4, 16), values, strict=True)
    ]
    columns = ["sample_id", "direction", "order", "draw", "k", "patching_effect"]
    return pd.DataFrame(rows, columns=columns).assign(corruption="image")


def test_summary_by_hand():
    summary = faithfulness_summary(by_hand(), sizes=[4]).set_index(["direction", "order"])
    # By trapezoids over 0, ¼, 1 a curve a, b, c has the area a/8 + b/2 + 3c/8.
    assert summary["auc"].to_dict() == pytest.approx(
        {
            ("sufficiency", "ranked"): 0.375 + 0.4,
            ("sufficiency", "random"): 0.375 + 0.275,
            ("necessity", "ranked"): 0.125 + 0.2,
            ("necessity", "random"): 0.125 + 0.35,
        }
    )
    assert summary["effect_at_4"].to_list() == pytest.approx([0.8, 0.55, 0.4, 0.7])
    ranked = summary.xs("ranked", level="order")
    assert ranked["advantage"].to_dict() == pytest.approx({"sufficiency": 0.125, "necessity": 0.15})
    # The advantage is the same on all 12 pairs: only the two constant sign patterns reach it.
    assert ranked["p_value"].to_list() == [2 / 2**12] * 2
    assert ranked["n_beaten"].to_dict() == {"sufficiency": 1, "necessity": 2}
    assert set(ranked["n_random"]) == {2}
    random = summary.xs("random", level="order")
    assert random[["advantage", "p_value", "n_beaten"]].isna().all(axis=None)
    assert (summary["ci_low"] < summary["auc"]).all() and (summary["auc"] < summary["ci_high"]).all()


def test_worse_than_random_is_a_negative_advantage():
    table = by_hand()
    table["order"] = table["order"].map({"ranked": "random", "random": "ranked"})
    table = table[(table["order"] == "random") | (table["draw"] == 0)]
    ranked = faithfulness_summary(table).query("order == 'ranked'")
    assert ranked["advantage"].to_list() == pytest.approx([-0.275, -0.175])
    assert ranked["n_beaten"].to_list() == [0, 0]


def test_curves_by_hand():
    curves = faithfulness_means(by_hand()).set_index(["direction", "order", "k"])
    assert curves.loc[("sufficiency", "random", 4), "mean_effect"] == pytest.approx(0.55)
    assert curves.loc[("necessity", "ranked", 4), "mean_effect"] == pytest.approx(0.4)
    low, high = curves.loc[("sufficiency", "ranked", 4), ["ci_low", "ci_high"]]
    assert 0.79 < low < 0.8 < high < 0.81
    assert set(curves["n"]) == {12}


def test_pairs_without_contrast_are_set_aside_whole():
    table = by_hand()
    table.loc[(table["sample_id"] == "pair-2") & (table["direction"] == "necessity"), "patching_effect"] = np.nan
    summary = faithfulness_summary(table).groupby("direction")[["n", "n_missing"]].first()
    assert summary.loc["necessity"].to_list() == [11, 1]
    assert summary.loc["sufficiency"].to_list() == [12, 0]


def test_tasks_stay_apart_and_may_have_other_sizes():
    table = by_hand()
    both = pd.concat([table.assign(task="a"), table[table["k"] < 16].assign(task="b")], ignore_index=True)
    summary = faithfulness_summary(both).set_index(["task", "direction", "order"])["auc"]
    assert summary["a", "sufficiency", "ranked"] == pytest.approx(0.775)
    assert summary["b", "sufficiency", "ranked"] == pytest.approx(0.4)


def test_without_random_heads_there_is_no_advantage():
    summary = faithfulness_summary(by_hand().query("order == 'ranked'"))
    assert list(summary["auc"]) == pytest.approx([0.775, 0.325])
    assert summary[["advantage", "p_value"]].isna().all(axis=None)


def test_a_size_that_was_not_run_gets_a_sentence():
    with pytest.raises(VlmtraceError, match="choose one of 0, 4, 16"):
        faithfulness_summary(by_hand(), sizes=[5])
