"""Circuits of a random model keep their identities."""

import numpy as np
import pandas as pd
import pytest

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.circuits.circuit_run import run_circuits
from vlmtrace.methods.circuits.curves import faithfulness_summary
from vlmtrace.methods.circuits.faithfulness import circuit_sizes, faithfulness_table, faithfulness_tables, subset_table
from vlmtrace.methods.circuits.heads import head_table, rank_heads
from vlmtrace.methods.circuits.search import candidate_heads
from vlmtrace.methods.circuits.sites import random_order
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


def test_random_heads_are_matched_by_module_and_layer(random_blip):
    ranked = [("cross_attention", 1, 0), ("cross_attention", 1, 3), ("self_attention", 0, 0)]
    orders = [random_order(random_blip, ranked, np.random.default_rng(seed)) for seed in range(200)]
    for order in orders:
        assert [head[:2] for head in order] == [head[:2] for head in ranked], "a control of another layer is too easy"
        assert len(set(order)) == len(order), "a head was drawn twice"
    drawn = pd.Series([order[0] for order in orders]).value_counts()
    assert len(drawn) == 4, "a random head must come from all 4 heads of its module and layer"


def test_both_ends_stand_beside_every_run(image_table, random_blip, random_pairs):
    """LD with no head and with all heads, whatever sizes are run: what a ratio of means needs."""
    small = faithfulness_table(random_blip, random_pairs.head(3), FIRST, n_random=0, sizes=[2])
    columns = ["sample_id", "direction", "logit_diff_none", "logit_diff_all"]
    ends, same = (table[columns].drop_duplicates().reset_index(drop=True) for table in (image_table, small))
    pd.testing.assert_frame_equal(ends, same, atol=1e-4)
    whole = image_table.query("direction == 'sufficiency' and order == 'ranked'")
    for k, column in ((0, "logit_diff_none"), (24, "logit_diff_all")):
        rows = whole[whole["k"] == k]
        assert rows["logit_diff"].to_numpy() == pytest.approx(rows[column].to_numpy())


def test_units_of_the_pairs_go_along(random_blip, random_pairs):
    pairs = random_pairs.head(2).assign(unit=["u", "u"])
    table = faithfulness_table(random_blip, pairs, FIRST, sizes=[1], n_random=1, run="computed")
    assert set(table["unit"]) == {"u"} and set(table["run"]) == {"computed"}
    assert set(faithfulness_summary(table)["n_units"]) == {1}


def test_random_heads_may_be_run_at_other_sizes(random_blip, random_pairs):
    table = faithfulness_table(random_blip, random_pairs.head(1), FIRST, sizes=[0, 1, 3], n_random=2, random_sizes=[2])
    sizes = table.groupby("order")["k"].unique().map(sorted)
    assert sizes.to_dict() == {"random": [2], "ranked": [0, 1, 3]}


def test_sizes_of_circuits():
    assert circuit_sizes(64) == [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert circuit_sizes(5) == [0, 1, 2, 3, 4, 5]
    assert circuit_sizes(1) == [0, 1]


@pytest.mark.parametrize(
    "run",
    [
        lambda model, pairs: faithfulness_table(model, pairs, FIRST, n_random=0),
        lambda model, pairs: subset_table(model, pairs, FIRST),
        lambda model, pairs: run_circuits(model, pairs, [FIRST]),
        lambda model, pairs: patch_head_sets(model, pairs, [FIRST]),
        candidate_heads,
    ],
    ids=["faithfulness_table", "subset_table", "run_circuits", "patch_head_sets", "candidate_heads"],
)
def test_tables_that_break_the_contract_are_refused(random_blip, random_pairs, run):
    """Two pairs of one name would be one pair in every table that is made of these."""
    twice = random_pairs.iloc[[0, 1]].assign(sample_id="a")
    with pytest.raises(VlmtraceError, match="holds sample_id 'a' more than once"):
        run(random_blip, twice)
    with pytest.raises(VlmtraceError, match="The pairs table has no rows"):
        run(random_blip, random_pairs.iloc[:0])


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
    assert set(summary["n"]) == {2}


@pytest.mark.parametrize("corruption", ["image", "text"])
def test_several_runs_from_shared_passes_agree_with_each_alone(random_blip, random_pairs, corruption):
    """Pairs of unlike shapes and numbers of answer tokens share batches: against one pair and run at a time."""
    options = {"frozen": {"sizes": [0, 1, 2], "n_random": 2}, "computed": {"sizes": [1], "n_random": 1}}
    together = faithfulness_tables(random_blip, random_pairs, FIRST, corruption, options, seed=3)
    alone = [
        faithfulness_table(random_blip, random_pairs.iloc[[row]], FIRST, corruption, seed=3, run=run, **its)
        for run, its in options.items()
        for row in range(len(random_pairs))
    ]
    keys = ["run", "direction", "order", "draw", "k", "sample_id"]
    first, second = (
        table.sort_values(keys).reset_index(drop=True) for table in (together, pd.concat(alone, ignore_index=True))
    )
    assert len(first) == len(second) and first[keys].equals(second[keys])
    for column in ("logit_diff", "logit_diff_none", "logit_diff_all"):
        assert first[column].to_numpy() == pytest.approx(second[column].to_numpy(), abs=1e-4), column


def test_both_runs_take_one_clean_and_one_corrupt_run_of_each_pair(random_blip, random_pairs, monkeypatch):
    traced = []
    trace = type(random_blip).trace
    monkeypatch.setattr(
        type(random_blip),
        "trace",
        lambda self, inputs, *args: traced.append(len(inputs["input_ids"])) or trace(self, inputs, *args),
    )
    one_token = random_pairs.iloc[:1]
    run = {"sizes": [1], "n_random": 0}
    faithfulness_table(random_blip, one_token, FIRST, run="frozen", **run)
    once = sum(traced)
    traced.clear()
    faithfulness_tables(random_blip, one_token, FIRST, "image", {"frozen": run, "computed": run})
    assert sum(traced) == once, "a second kind of run traces the pair again"
