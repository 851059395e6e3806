"""A broken pairs table is refused by one sentence that names the column or row."""

import pandas as pd
import pytest

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import validate_pairs


def test_a_good_table_passes_unchanged(random_pairs):
    pd.testing.assert_frame_equal(validate_pairs(random_pairs), random_pairs)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda t: t.drop(columns="category"), "no column 'category'"),
        (
            lambda t: t.rename(columns={"clean_image": "clean_img"}),
            "no column 'clean_image': rename 'clean_img'",
        ),
        (lambda t: t.assign(sample_id="pair-3"), "sample_id 'pair-3' more than once .7 rows"),
        (lambda t: t.assign(correct_first="yes"), "column 'correct_first'"),
        (
            lambda t: t.assign(clean_prompt=["", *t["clean_prompt"][1:]]),
            "'clean_prompt', row 'pair-0', fails",
        ),
        (lambda t: t.assign(correct_answer=[None, *t["correct_answer"][1:]]), "'correct_answer'"),
        (lambda t: t.iloc[:0], "has no rows"),
    ],
)
def test_broken_tables(random_pairs, spoil, sentence):
    with pytest.raises(VlmtraceError, match=sentence):
        validate_pairs(spoil(random_pairs.copy()))
