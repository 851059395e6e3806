"""Heads planted in made-up tables are found, and no others; what is simple is worked out by hand."""

import time
import warnings

import numpy as np
import pandas as pd
import pytest

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.circuits.heads import head_table, pair_effects, rank_heads, universal_heads

TASKS = ("states", "faces", "svo")
MODULES = ("self_attention", "cross_attention")


def head_patching(
    planted: dict[tuple, float] | None = None,
    n_pairs: int = 40,
    tasks: tuple[str, ...] = ("states",),
    corruptions: tuple[str, ...] = ("image",),
    n_layers: int = 4,
    n_heads: int = 8,
    n_positions: int = 5,
    noise: float = 0.05,
    seed: int = 0,
) -> pd.DataFrame:
    """A head_patching table of noise with mean 0, where planted (module, layer, head) have another mean.

    A planted effect is spread evenly over the positions; the noise of a pair and head is put at one of them.
    """
    index = pd.MultiIndex.from_product(
        [tasks, corruptions, [f"pair-{i}" for i in range(n_pairs)], MODULES, range(n_layers), range(n_heads)],
        names=["task", "corruption", "sample_id", "module", "layer", "head"],
    )
    table = index.to_frame(index=False)
    size = np.zeros(len(table))
    for (module, layer, head), effect in (planted or {}).items():
        size[(table["module"] == module) & (table["layer"] == layer) & (table["head"] == head)] = effect
    noises = np.random.default_rng(seed).normal(scale=noise, size=len(table))
    parts = [
        table.assign(position=position, patching_effect=size / n_positions + (noises if position == 1 else 0))
        for position in range(n_positions)
    ]
    return pd.concat(parts, ignore_index=True).assign(block="text_encoder")


def by_hand(effects: dict[str, list[list[float]]]) -> pd.DataFrame:
    """A table of one module and layer from effects[sample_id][head][position]."""
    rows = [
        (sample_id, head, position, value)
        for sample_id, heads in effects.items()
        for head, values in enumerate(heads)
        for position, value in enumerate(values)
    ]
    table = pd.DataFrame(rows, columns=["sample_id", "head", "position", "patching_effect"])
    return table.assign(task="states", corruption="image", block="text_encoder", module="mlp", layer=0)


def important(heads: pd.DataFrame, rule: str = "is_important") -> set[tuple]:
    return set(heads.loc[heads[rule], ["module", "layer", "head"]].itertuples(index=False, name=None))


# Tables of heads ----------------------------------------------------------------------------------


def test_effects_are_summed_over_positions_then_averaged_over_pairs():
    table = by_hand({"a": [[0.1, 0.3], [-0.2, 0.2]], "b": [[0.2, 0.0], [-0.5, 0.1]]})
    sums = pair_effects(table).set_index(["sample_id", "head"])["effect"]
    assert sums.to_dict() == pytest.approx({("a", 0): 0.4, ("a", 1): 0.0, ("b", 0): 0.2, ("b", 1): -0.4})
    with pytest.warns(UserWarning, match="2 pairs"):
        heads = head_table(table)
    assert heads["mean_effect"].to_numpy() == pytest.approx([0.3, -0.2])
    assert heads["mean_abs_effect"].to_numpy() == pytest.approx([0.3, 0.2])
    # Two pairs have four sign patterns: both effects of head 0 are positive, so two of four reach its mean;
    # the effects of head 1 are 0 and -0.4, so all four do. Corrected for two tests, ½ becomes 1.
    assert heads["p_value"].tolist() == [0.5, 1.0]
    assert heads["q_value"].tolist() == [1.0, 1.0]


def test_mean_absolute_effect_does_not_cancel_and_the_signed_one_does():
    table = by_hand({f"pair-{i}": [[0.3 * (-1) ** i], [0.3]] for i in range(20)})
    heads = head_table(table).set_index("head")
    assert heads.loc[0, "mean_effect"] == pytest.approx(0.0)
    assert heads["mean_abs_effect"].to_list() == pytest.approx([0.3, 0.3])
    assert heads["is_important"].to_list() == [False, True], "an effect that cancels between pairs is no effect"


def test_planted_heads_are_found_with_their_sign_and_size():
    planted = {
        ("cross_attention", 2, 3): 0.30,
        ("cross_attention", 3, 1): -0.10,
        ("self_attention", 0, 0): 0.06,
    }
    heads = head_table(head_patching(planted))
    assert important(heads) == set(planted)
    found = heads.set_index(["module", "layer", "head"])
    for head, effect in planted.items():
        row = found.loc[head]
        assert row["mean_effect"] == pytest.approx(effect, abs=0.03)
        assert row["ci_low"] < effect < row["ci_high"], f"the interval of {head} misses its effect {effect}"
        assert row["n"] == 40


def test_a_certain_but_tiny_effect_is_not_important():
    planted = {("cross_attention", 0, 0): 0.01}
    table = head_patching(planted, noise=0.001)
    heads = head_table(table).set_index(["module", "layer", "head"])
    assert heads.loc[("cross_attention", 0, 0), "q_value"] < 0.01
    assert important(heads.reset_index()) == set()
    assert important(head_table(table, min_effect=0.005)) == set(planted)


def test_outlier_rule_of_notice_by_hand():
    effects = {f"pair-{i}": [[0.0], [0.0], [0.1], [0.0], [0.0], [0.0], [0.0], [0.9]] for i in range(20)}
    # Mean 1/8, standard deviation √(0.82/8 − 1/64) = 0.295: the threshold is 0.714.
    heads = head_table(by_hand(effects))
    assert heads["is_important_2sd"].to_list() == [False] * 7 + [True]
    effects = {f"pair-{i}": [[0.0], [0.0], [0.1], [0.0], [0.0], [0.0], [0.9], [0.9]] for i in range(20)}
    # Mean 1.9/8, standard deviation 0.385: nothing exceeds 1.007, though two heads carry everything.
    heads = head_table(by_hand(effects))
    assert not heads["is_important_2sd"].any()
    assert heads["is_important"].to_list() == [False, False, True, False, False, False, True, True]


@pytest.mark.medium
def test_no_discoveries_without_an_effect():
    """Under the null the chance of naming any head at all must not exceed the false discovery rate."""
    named = 0
    for seed in range(100):
        table = head_patching(n_pairs=25, n_layers=2, n_positions=2, seed=seed)
        heads = head_table(table, n_permutations=4000, n_boot=10, min_effect=0)
        named += heads["is_important"].any()
    assert named <= 11, f"in {named} of 100 tables of pure noise some head was called important (5 expected)"


@pytest.mark.medium
def test_false_discovery_rate_beside_true_effects():
    planted = {("cross_attention", layer, head): 0.04 for layer in (0, 1) for head in range(6)}
    shares = []
    for seed in range(40):
        table = head_patching(planted, n_pairs=25, n_layers=2, n_positions=2, seed=seed)
        found = important(head_table(table, n_permutations=4000, n_boot=10, min_effect=0))
        shares.append(len(found - set(planted)) / max(1, len(found)))
    assert np.mean(shares) < 0.08, f"{np.mean(shares):.1%} of the heads named carry nothing (5 % allowed)"


def test_pairs_without_contrast_are_set_aside_and_counted():
    table = head_patching({("cross_attention", 1, 1): 0.3}, n_pairs=20)
    broken = table.copy()
    broken.loc[broken["sample_id"] == "pair-7", "patching_effect"] = np.nan
    heads, without = head_table(broken), head_table(table[table["sample_id"] != "pair-7"])
    assert set(heads["n"]) == {19} and set(heads["n_missing"]) == {1}
    pd.testing.assert_frame_equal(heads.drop(columns="n_missing"), without.drop(columns="n_missing"))
    with pytest.raises(VlmtraceError, match="None of the 20 pairs of states/image"):
        head_table(table.assign(patching_effect=np.nan))


def test_cells_are_independent_of_each_other():
    planted = {("cross_attention", 1, 1): 0.3}
    table = head_patching(planted, tasks=TASKS, corruptions=("image", "text"), n_pairs=15)
    heads = head_table(table)
    assert list(dict.fromkeys(zip(heads["task"], heads["corruption"], strict=True))) == [
        (task, corruption) for task in TASKS for corruption in ("image", "text")
    ]
    one = head_table(table[(table["task"] == "faces") & (table["corruption"] == "text")])
    same = heads[(heads["task"] == "faces") & (heads["corruption"] == "text")].reset_index(drop=True)
    pd.testing.assert_frame_equal(one, same)


def test_order_of_rows_does_not_matter():
    table = head_patching({("cross_attention", 1, 1): 0.3}, n_pairs=15)
    shuffled = table.sample(frac=1, random_state=0)
    columns = ["module", "layer", "head", "mean_effect", "is_important"]
    pd.testing.assert_frame_equal(head_table(table)[columns], head_table(shuffled)[columns])


def test_the_size_of_a_real_run_takes_seconds():
    table = head_patching(tasks=TASKS, corruptions=("image", "text"), n_pairs=50, n_positions=12)
    start = time.process_time()
    heads = head_table(table)
    seconds = time.process_time() - start
    assert len(heads) == 3 * 2 * 64
    assert seconds < 20, f"3 tasks × 2 corruptions × 64 heads × 50 pairs took {seconds:.0f} s of processor time"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.drop(columns="task"), "no column 'task'"),
        (lambda t: pd.concat([t, t.tail(1)]), "more than once"),
        (
            lambda t: t[(t["sample_id"] != "pair-3") | (t["layer"] > 0)],
            "'pair-3' of states/image was patched at",
        ),
        (lambda t: t.head(0), "no rows"),
    ],
)
def test_bad_tables_get_a_sentence(change, sentence):
    with pytest.raises(VlmtraceError, match=sentence):
        head_table(change(head_patching(n_pairs=15)))


def test_too_few_pairs_are_said_to_be_too_few():
    with pytest.warns(UserWarning, match="states/image: with 8 pairs"):
        head_table(head_patching(n_pairs=8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head_table(head_patching(n_pairs=12))


# Universal heads and rankings ---------------------------------------------------------------------


def heads_by_hand() -> pd.DataFrame:
    """Four heads of layer 0 in the cells a/image, a/text, b/image: mean effects, p-values, is_important."""
    cells = {
        ("a", "image"): ([0.5, 0.1, -0.3, 0.0], [0.01, 0.02, 0.01, 1.0], [True, True, True, False]),
        ("a", "text"): ([0.3, 0.2, 0.3, 0.0], [0.01, 0.03, 0.01, 0.5], [True, False, True, False]),
        ("b", "image"): ([0.1, 0.4, -0.2, 0.1], [0.02, 0.01, 0.2, 0.4], [True, True, False, False]),
    }
    tables = []
    for (task, corruption), (effects, p_values, important) in cells.items():
        table = pd.DataFrame({"head": range(4), "mean_effect": effects, "p_value": p_values, "is_important": important})
        tables.append(table.assign(task=task, corruption=corruption))
    return pd.concat(tables, ignore_index=True).assign(block="text_encoder", module="cross_attention", layer=0)


def test_universal_heads_by_hand():
    table = universal_heads(heads_by_hand())
    assert list(table["head"]) == [0, 1, 2], "most cells first, then the larger mean effect (7/30 before -2/30)"
    assert list(table["cells"]) == ["a/image, a/text, b/image", "a/image, b/image", "a/image, a/text"]
    assert list(table["n_cells"]) == [3, 2, 2]
    assert list(table["is_universal"]) == [True, False, False]
    assert list(table["sign"]) == ["+", "+", "+/-"]
    assert list(table["mean_effect"]) == pytest.approx([0.3, 0.7 / 3, -0.2 / 3])
    # The largest p-values over cells of the four heads are 0.02, 0.03, 0.2, 1: times 4/1, 4/2, 4/3, 4/4.
    assert list(table["p_value"]) == pytest.approx([0.02, 0.03, 0.2])
    assert list(table["q_value"]) == pytest.approx([0.06, 0.06, 0.8 / 3])


def test_a_cell_without_important_heads_leaves_none_universal():
    heads = heads_by_hand()
    heads.loc[heads["task"] == "b", "is_important"] = False
    assert not universal_heads(heads)["is_universal"].any()
    empty = universal_heads(heads.assign(is_important=False))
    assert empty.empty and list(empty.columns) == list(universal_heads(heads_by_hand()).columns)


def test_ranking_by_hand():
    ranking = rank_heads(heads_by_hand(), "image")
    # Means over the tasks a and b: 0.3, 0.25, -0.25, 0.05.
    assert list(ranking["head"]) == [0, 1, 3, 2]
    assert list(ranking["rank"]) == [1, 2, 3, 4]
    assert list(ranking["mean_effect"]) == pytest.approx([0.3, 0.25, 0.05, -0.25])
    with pytest.raises(VlmtraceError, match="choose one of image, text"):
        rank_heads(heads_by_hand(), "noise")
