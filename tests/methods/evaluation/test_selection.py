"""Selection: eligible pairs only, balanced over category × option order, without replacement, split in two."""

import itertools

import pandas as pd
import pytest

import vlmtrace as vt
from vlmtrace.methods.evaluation.selection import eligible


def table(n=10):
    rows = []
    for category, first, i in itertools.product(["color", "shape"], [True, False], range(n)):
        rows.append(
            dict(
                sample_id=f"{category}-{first}-{i}",
                category=category,
                correct_first=first,
                is_correct=i != 0,
                image_is_flipped=i != 1,
                text_is_changed=not (i == 2 and category == "shape"),
            )
        )
    return pd.DataFrame(rows)


def test_only_eligible_pairs_and_balance():
    selected = vt.select_samples(table())
    counts = selected.groupby(["category", "correct_first"]).size()
    assert set(counts) == {7}, "shape has 7 eligible pairs an order, so color gives 7 too"
    assert selected["sample_id"].is_unique
    assert not selected["sample_id"].str.endswith(("-0", "-1")).any()
    assert "shape-True-2" not in set(selected["sample_id"])


def test_what_a_pair_does_not_have_is_not_asked_of_it():
    """Pairs of images alone have no text corruption: its columns are missing, and the pairs are eligible without."""
    full = table()
    alone = full["sample_id"].str.endswith(("-2", "-3"))
    gaps = {"clean_logit_diff": 2.0, "image_logit_diff": -2.0, "clean_text_logit_diff": 2.0, "text_logit_diff": -2.0}
    full = full.assign(**gaps, text_is_changed=full["text_is_changed"].astype(object))
    full.loc[alone, "text_is_changed"] = None
    full.loc[alone, ["clean_text_logit_diff", "text_logit_diff"]] = float("nan")
    assert set(full["sample_id"][~eligible(full)]) == set(
        full["sample_id"][full["sample_id"].str.endswith(("-0", "-1"))]
    )
    with pytest.raises(vt.VlmtraceError, match=r"is_correct 0%, image_is_flipped 90%\)"):
        vt.select_samples(full.assign(is_correct=False, text_is_changed=None))


def test_discover_and_verify_are_disjoint_halves_of_every_cell():
    counts = vt.select_samples(table(), per_category=12).groupby(["category", "correct_first", "split_use"]).size()
    assert set(counts) == {3}


def test_pairs_without_contrast_are_not_eligible():
    """Effects are shares of the gap between the runs, so the gap must be one."""
    data = table().assign(clean_logit_diff=5.0, image_logit_diff=-5.0, text_logit_diff=1.0)
    weak = data["sample_id"] == "color-True-5"
    data.loc[weak, "text_logit_diff"] = 4.5
    assert set(vt.select_samples(data).groupby(["category", "correct_first"]).size()) == {7}
    assert "color-True-5" not in set(vt.select_samples(data, per_category=20)["sample_id"])
    data.loc[weak, ["text_logit_diff", "image_logit_diff"]] = [1.0, 9.0]
    assert "color-True-5" not in set(vt.select_samples(data, per_category=20)["sample_id"])


def test_a_unit_is_on_one_side_of_the_split_only():
    """Every pair has a mirror image of the other option order: no couple may be split over discover and verify."""
    data = table(40)
    data["unit"] = data["category"] + (data.groupby(["category", "correct_first"]).cumcount()).astype(str)
    for seed in range(5):
        selected = vt.select_samples(data, per_category=30, seed=seed)
        sides = selected.groupby("unit")["split_use"].nunique()
        assert sides.max() == 1, f"{(sides > 1).sum()} of {len(sides)} units are on both sides"
        shares = selected.groupby(["category", "correct_first"])["split_use"].apply(
            lambda use: (use == "verify").mean()
        )
        assert shares.between(0.4, 0.6).all(), f"the halves are not halves: {shares.to_dict()}"


def test_pairs_that_all_hang_together_are_not_split_and_that_is_told():
    with pytest.warns(UserWarning, match="1 units"):
        selected = vt.select_samples(table().assign(unit="all"))
    assert selected["split_use"].nunique() == 1


def test_seed_decides():
    ids = [list(vt.select_samples(table(), 4, seed=seed)["sample_id"]) for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_shortage_is_told():
    data = table()
    selected = vt.select_samples(data, per_category=16)
    counts = vt.selection_table(data, selected, 16).set_index(["category", "correct_first"])
    assert counts.loc[("shape", True), ["available", "eligible", "wanted", "got"]].tolist() == [10, 7, 8, 7]
    assert counts.loc[("color", True), ["available", "eligible", "wanted", "got"]].tolist() == [10, 8, 8, 8]
    assert (counts["discover"] + counts["verify"] == counts["got"]).all()


def test_selected_pairs_with_text_corruption_are_counted():
    data = table().assign(clean_prompt="a or b?", corrupt_prompt="c or d?")
    data.loc[data["category"] == "shape", "corrupt_prompt"] = "a or b?"
    counts = vt.selection_table(data, vt.select_samples(data)).set_index(["category", "correct_first"])
    assert counts["with_text"].to_dict() == {
        ("color", False): 7, ("color", True): 7, ("shape", False): 0, ("shape", True): 0
    }  # fmt: skip
    assert "with_text" not in vt.selection_table(table(), vt.select_samples(table()))


def test_nothing_eligible_is_one_sentence():
    with pytest.raises(vt.VlmtraceError, match=r"No pair is left after selection .40 evaluated; is_correct 0%"):
        vt.select_samples(table().assign(is_correct=False))
    with pytest.raises(vt.VlmtraceError, match="per_category=1"):
        vt.select_samples(table(), per_category=1)


def test_cells_of_one_pair_take_turns_to_verify():
    """Seven emotions in two orders may leave one pair each; all of them to discover would leave nothing to verify."""
    selected = vt.select_samples(table(), per_category=2)
    assert set(selected.groupby(["category", "correct_first"]).size()) == {1}
    counts = selected["split_use"].value_counts()
    assert counts["verify"] == len(selected) // 2


def test_a_table_that_was_not_selected_is_told_to_be():
    with pytest.raises(vt.VlmtraceError, match=r"has no column 'split_use': make it with vt\.select_samples"):
        vt.selection_table(table(), table().assign(split="test"))


def test_what_is_no_evaluated_table_is_one_sentence():
    with pytest.raises(vt.VlmtraceError, match="evaluated table has no rows"):
        vt.select_samples(table().assign(clean_image="a", corrupt_image="b").iloc[:0])
    with pytest.raises(vt.VlmtraceError, match="'is_correct' of the evaluated table must hold true or false"):
        eligible(table().assign(is_correct="False"))
    with pytest.raises(vt.VlmtraceError, match="has no column 'clean_logit_diff'"):
        eligible(table().assign(image_logit_diff=0.0))
    with pytest.raises(vt.VlmtraceError, match="evaluated table has no column 'kind'"):
        vt.accuracy_table(table(), by=["kind"])
    with pytest.raises(vt.VlmtraceError, match="evaluated table has no column 'is_correct'"):
        vt.accuracy_table(table().drop(columns="is_correct"), by=["category"])
