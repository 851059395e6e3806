"""The table of maps: differences question by question, verdicts corrected for all that is compared."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control

from vlmtrace.methods.lens.map_comparison import map_table


def test_the_table_of_maps_compares_question_by_question():
    auc = {
        "lens": [0.9, 0.8, 0.7, 0.9, 0.8, 0.7],
        "attention": [0.95, 0.85, 0.75, 0.95, 0.85, 0.75],
        "random": [0.5, 0.4, 0.6, 0.5, 0.5, 0.4],
    }
    scores = pd.concat(
        pd.DataFrame(
            {"sample_id": list("abcdef"), "method": method, "auc": values, "deletion": values, "insertion": 0.5}
        )
        for method, values in auc.items()
    )
    table = map_table(scores).set_index(["measure", "method"])
    assert table.loc[("auc", "attention"), "difference"] == pytest.approx(0.05)
    assert table.loc[("auc", "attention"), "verdict"] == "better"
    assert table.loc[("deletion", "attention"), "verdict"] == "worse"
    assert table.loc[("insertion", "random"), "verdict"] == "no difference seen"
    assert table.loc[("auc", "lens"), "verdict"] == "" and np.isnan(table.loc[("auc", "lens"), "q_value"])


def test_questions_about_one_image_count_once():
    scores = chance_scores(1)
    copied = scores.assign(sample_id=scores["sample_id"] + " again")
    both = pd.concat([scores, copied]).assign(unit=lambda table: table["sample_id"].str.removesuffix(" again"))
    pd.testing.assert_frame_equal(map_table(both), map_table(scores))


def test_means_of_shares_have_intervals_of_shares():
    auc = [1.0, 1.0, 0.99, 1.0, 0.98, 0.1]
    scores = pd.DataFrame(
        {"sample_id": list("abcdef"), "method": "lens", "auc": auc, "deletion": 0.5, "insertion": 0.5}
    )
    row = map_table(scores).iloc[0]
    assert 0 <= row["low"] < row["mean"] < row["high"] <= 1 and row["verdict"] == ""


def chance_scores(n_methods: int, n: int = 10) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    names = ["lens", *(f"map {i}" for i in range(n_methods))]
    question = [f"q{i}" for i in range(n)]
    numbers = {measure: generator.normal(size=(len(names), n)) for measure in ("auc", "deletion", "insertion")}
    return pd.concat(
        pd.DataFrame({"sample_id": question, "method": name, **{m: v[row] for m, v in numbers.items()}})
        for row, name in enumerate(names)
    )


def test_verdicts_are_corrected_for_all_maps_and_measures():
    table = map_table(chance_scores(60))
    judged = table[table["verdict"].isin(["better", "worse"])]
    assert judged.empty, f"{len(judged)} of 180 verdicts say that maps of pure chance differ"
    assert (table["p_value"] < 0.05).sum() > 2, "the case does not show what correction does"
    leaves_out = table[table["difference_low"] * table["difference_high"] > 0]
    assert len(leaves_out) > 2, "single intervals are not corrected"


def test_verdicts_within_kinds_of_questions_are_corrected_together():
    scores = chance_scores(1, n=40)
    scores["category"] = scores["sample_id"].str[1:].astype(int).mod(4).map(str)
    found = map_table(scores, by="category")
    assert list(found.columns[:3]) == ["category", "measure", "method"] and len(found) == 4 * 3 * 2
    alone = map_table(scores[scores["category"] == "2"])
    columns = ["mean", "difference", "difference_low", "p_value"]
    mine = found[found["category"] == "2"].reset_index(drop=True)
    pd.testing.assert_frame_equal(mine[columns], alone[columns])
    p_values = found["p_value"].dropna()
    assert found["q_value"].dropna().to_numpy() == pytest.approx(false_discovery_control(p_values))
