"""Sentences about answers and selected pairs: their counts are those of the rows."""

import pandas as pd

from vlmtrace.methods.evaluation import describe_answers, describe_gaps, describe_selection


def evaluated(right):
    """As many pairs as there are answers: color first, then shape."""
    half = len(right) // 2
    return pd.DataFrame(
        {
            "task": "t",
            "category": ["color"] * half + ["shape"] * (len(right) - half),
            "correct_first": [i % 2 == 0 for i in range(len(right))],
            "sample_id": range(len(right)),
            "is_correct": right,
            "image_is_flipped": True,
            "clean_logit_diff": 5.0,
            "image_logit_diff": [-5.0] * (len(right) - 1) + [4.5],
        }
    )


def test_the_kind_with_the_fewest_right_answers_is_named():
    said = describe_answers(evaluated([True] * 20 + [True] * 5 + [False] * 15))
    assert "Right on the clean image: 62 %" in said or "Right on the clean image: 63 %" in said
    assert "Right on both images: least often for shape, 25 %" in said and "most often for color, 100 %" in said
    assert "least often for shape, 25 %, most often for color, 100 % (picked on these pairs)." in said
    few = describe_answers(evaluated([True] * 3 + [False]))
    assert "shape, 50 %, most often for color, 100 % (picked on these pairs; their intervals overlap)." in few


def test_equal_kinds_are_not_ranked():
    assert "No kind of question is answered less often than another." in describe_answers(evaluated([True] * 8))


def test_no_pair_and_one_pair_are_sentences():
    assert describe_answers(evaluated([True])[:0]) == "No pair was evaluated."
    assert "100 %" in describe_answers(evaluated([True]))
    assert describe_gaps(evaluated([True])[:0]) == "Image corruption: no pair has both runs."
    columns = "category correct_first available eligible wanted got with_text".split()
    assert describe_selection(pd.DataFrame(columns=columns)) == "There was no pair to select from."


def test_pairs_with_a_small_gap_are_counted():
    said = describe_gaps(evaluated([True] * 4))
    assert said == (
        "Image corruption: the logit difference falls by 10.0 in the median pair (from 5.0 to −5.0); "
        "in 1 of 4 pairs by less than 1."
    )


def test_what_limits_the_selection_is_named():
    rows = [("color", True, 20, 18, 15, 15, 15), ("shape", False, 20, 12, 15, 12, 9)]
    counts = pd.DataFrame(rows, columns="category correct_first available eligible wanted got with_text".split())
    assert describe_selection(counts).splitlines() == [
        "30 of 40 pairs are answered as the rule requires (75 %); 27 are kept of 30 wanted, "
        "24 of them with text corruption.",
        "Fewest are eligible for shape with the incorrect option first: 12 of 20.",
        "Too few pairs: shape (12 of 15).",
    ]
