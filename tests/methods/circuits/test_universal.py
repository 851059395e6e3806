"""Universal heads by count and by the test of one sign, beside what chance gives."""

import numpy as np
import pandas as pd
import pytest

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.circuits.heads import rank_heads
from vlmtrace.methods.circuits.power import detectable_effect
from vlmtrace.methods.circuits.universal import (
    effect_size_sensitivity,
    one_sign_heads,
    universal_heads,
    universality,
)

CELLS = [("a", "image"), ("a", "text"), ("b", "image")]


def make_heads(effects, p_values, important, cells=CELLS, module="cross_attention") -> pd.DataFrame:
    """Heads of layer 0 from (cell, head) lists."""
    tables = [
        pd.DataFrame(
            {"head": range(len(effects[0])), "mean_effect": e, "p_value": p, "q_value": p, "is_important": i}
        ).assign(task=task, corruption=corruption)
        for (task, corruption), e, p, i in zip(cells, effects, p_values, important, strict=True)
    ]
    return pd.concat(tables, ignore_index=True).assign(block="text_encoder", module=module, layer=0)


def by_hand() -> pd.DataFrame:
    return make_heads(
        [[0.5, 0.1, -0.3, 0.0], [0.3, 0.2, 0.3, 0.1], [0.1, 0.4, -0.2, 0.1]],
        [[0.01, 0.02, 0.01, 1.0], [0.01, 0.03, 0.01, 0.5], [0.02, 0.01, 0.2, 0.4]],
        [[True, True, True, False], [True, False, True, False], [True, True, False, False]],
    )


def test_universal_heads_by_hand():
    table = universal_heads(by_hand())
    assert list(table["head"]) == [0, 1, 2], "most cells first, then the larger mean effect (7/30 before -2/30)"
    assert list(table["cells"]) == ["a/image, a/text, b/image", "a/image, b/image", "a/image, a/text"]
    assert list(table["n_cells"]) == [3, 2, 2]
    assert list(table["is_universal"]) == [True, False, False]
    assert list(table["sign"]) == ["+", "+", "+/-"]
    assert list(table["mean_effect"]) == pytest.approx([0.3, 0.7 / 3, -0.2 / 3])
    # Where signs agree p is the largest two-sided one. Head 2 is negative, positive, negative: one-sided p-values are
    # .995, .005, .9 for + and .005, .995, .1 for −: the larger is .995 for both. Head 3: .5, .25, .2 for +, so 1.
    # Corrected: .02 · 4/1, .03 · 4/2, then 1.
    assert list(table["p_value"]) == pytest.approx([0.02, 0.03, 1.0])
    assert list(table["q_value"]) == pytest.approx([0.06, 0.06, 1.0])
    assert not table["is_universal_iut"].any()


def test_effects_of_opposite_sign_are_no_evidence_for_one_role():
    """Each cell is certain, and the signs differ: the largest p-value would be .001."""
    heads = make_heads([[0.3], [-0.3], [0.3]], [[0.001]] * 3, [[True]] * 3)
    (row,) = universal_heads(heads).to_dict("records")
    assert row["sign"] == "+/-" and row["p_value"] == 1.0 and not row["is_universal_iut"]
    same = universal_heads(make_heads([[-0.3], [-0.2], [-0.3]], [[0.001]] * 3, [[True]] * 3))
    assert same["p_value"].tolist() == pytest.approx([0.001]) and same["is_universal_iut"].all()


def test_a_cell_without_important_heads_leaves_the_test():
    heads = by_hand()
    heads["p_value"] = heads["q_value"] = 0.001
    heads["mean_effect"] = heads["mean_effect"].abs() + 0.01
    heads.loc[heads["task"] == "b", "is_important"] = False
    table = universal_heads(heads)
    assert not table["is_universal"].any() and table["is_universal_iut"].all()
    assert len(table) == 4, "a head that passes the test is listed though it is important nowhere"
    empty = universal_heads(by_hand().assign(is_important=False))
    assert empty.empty and list(empty.columns) == list(table.columns)


def test_counts_stand_beside_chance():
    """Two cells of four heads, two important in each: chance puts 4 · ½ · ½ = 1 head into both, 3 into at least one."""
    heads = make_heads([[0.1] * 4] * 2, [[0.01] * 4] * 2, [[True, True, False, False]] * 2, cells=CELLS[:2])
    table = universality(heads, n_permutations=4000).query("scope == 'all' and criterion == 'important'").set_index("k")
    assert table["n_heads"].to_dict() == {2: 2, 1: 2}
    assert table["expected"].to_dict() == pytest.approx({2: 1.0, 1: 3.0})
    # Of the six ways to draw the second cell's two heads one gives both.
    assert table.loc[2, "p_value"] == pytest.approx(1 / 6, abs=0.03)
    assert table.loc[1, "p_value"] == 1.0


def test_chance_is_within_modules():
    """All heads of one module, none of the other, in both cells: the module explains it, the heads do not."""
    every = [[True] * 4] * 2
    one = make_heads([[0.1] * 4] * 2, [[0.01] * 4] * 2, every, cells=CELLS[:2])
    none = make_heads([[0.0] * 4] * 2, [[0.9] * 4] * 2, [[False] * 4] * 2, cells=CELLS[:2], module="self_attention")
    table = universality(pd.concat([one, none])).query("scope == 'all' and criterion == 'important' and k == 2")
    assert table["n_heads"].tolist() == [4] and table["expected"].tolist() == pytest.approx([4.0])
    assert table["p_value"].tolist() == [1.0]


def test_scopes_and_the_test_have_their_rows():
    table = universality(by_hand(), n_permutations=100)
    assert table.groupby("scope", sort=False)["m"].first().to_dict() == {"all": 3, "image": 2, "text": 1}
    tested = table[table["criterion"] == "one-sign test"].set_index("scope")
    # Under image corruption .02, .02, .2, 1 corrected are .04, .04, .27, 1;
    # under text corruption .01, .03, .01, .5 corrected are .02, .04, .02, .5.
    assert tested["n_heads"].to_dict() == {"all": 0, "image": 2, "text": 3}
    assert tested["expected"].to_dict() == pytest.approx({"all": 0, "image": 0.1, "text": 0.15})


def test_sensitivity_to_the_smallest_effect_by_hand():
    table = effect_size_sensitivity(by_hand(), [0.0, 0.15]).set_index(["scope", "min_effect"])
    columns = ["important", "somewhere", "everywhere"]
    # q below .05: heads 0, 1, 2 in a/image and a/text; heads 0, 1 in b/image.
    assert table.loc[("all", 0.0), columns].tolist() == [8, 3, 2]
    # At least .15: 0, 2 in a/image; 0, 1, 2 in a/text; 1 in b/image.
    assert table.loc[("all", 0.15), columns].tolist() == [6, 3, 0]
    assert table.loc[("image", 0.0), columns].tolist() == [5, 3, 2]


@pytest.mark.parametrize("function", [universal_heads, universality, one_sign_heads, effect_size_sensitivity])
def test_heads_that_were_not_measured_in_a_cell_are_refused(function):
    """A missing cell is not one in which the head matters, nor can a test be passed there."""
    heads = by_hand()
    missing = (heads["task"] == "b") & heads["head"].isin([1, 3])
    with pytest.raises(VlmtraceError, match=r"no row of cross_attention 0\.1 in b/image \(2 heads lack a cell\)"):
        function(heads[~missing])
    assert len(function(heads[heads["head"] != 1])), "a head that is in no cell is not asked for"


def test_heads_are_not_ranked_by_means_over_different_tasks():
    heads = by_hand()
    with pytest.raises(VlmtraceError, match=r"no row of cross_attention 0\.2 in b/image: measure the same heads"):
        rank_heads(heads[(heads["task"] == "a") | (heads["head"] != 2)], "image")
    assert len(rank_heads(heads[(heads["corruption"] == "image") | (heads["head"] != 2)], "image")) == 4


# Power --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_units", [8, 40])
def test_the_detectable_effect_is_found_in_80_of_100_samples(n_units):
    effect = float(detectable_effect(2.0, n_units, alpha=0.01))
    samples = np.random.default_rng(0).normal(effect, 2.0, size=(20_000, n_units))
    t = samples.mean(1) / samples.std(1, ddof=1) * np.sqrt(n_units)
    from scipy.stats import t as student

    found = (2 * student.sf(np.abs(t), n_units - 1) < 0.01).mean()
    assert found == pytest.approx(0.8, abs=0.01), f"an effect of {effect:.2f} is found in {found:.1%} of samples"


def test_the_detectable_effect_grows_with_spread_and_correction():
    small, large = detectable_effect([0.1, 0.3], 20)
    assert large == pytest.approx(3 * small)
    assert detectable_effect([0.1], 20, alpha=0.05 / 64)[0] > 1.5 * small
    assert np.isnan(detectable_effect([0.1], 1)).all()
    assert np.isfinite(detectable_effect([0.1], 2, alpha=0.05 / 64)).all()
