"""Denoising against noising: sums and differences of hand-made tables, and the figures of them."""

import pandas as pd
import pytest

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import TABLES
from vlmtrace.methods.patching import compare_directions, direction_sums
from vlmtrace.plots import denoising_against_noising, whole_head_map


def whole_heads(effects, units=None):
    """Rows from {(corruption, direction, block, head): effect by pair}."""
    rows = [
        {
            "sample_id": f"pair-{i}", "corruption": corruption, "direction": direction, "block": block,
            "module": "self_attention", "layer": 0, "head": head, "p_correct": 0.5, "p_diff": 0.1, "logit_diff": 1.0,
            "patching_effect": value, **({} if units is None else {"unit": units[i]}),
        }
        for (corruption, direction, block, head), values in effects.items()
        for i, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def backed_up():
    """Heads 0 and 1 each restore .9 alone and lose nothing; head 2 restores nothing alone and is needed."""
    return whole_heads(
        {
            ("image", direction, block, head): [value, value + 0.02, value - 0.02, value]
            for block in ("vision_encoder", "text_encoder")
            for head, both in enumerate([(0.9, 0.0), (0.9, 0.0), (0.0, 0.6)])
            for direction, value in zip(("denoising", "noising"), both, strict=True)
        }
    )


def test_sums_are_by_pair_and_direction(backed_up):
    TABLES["whole_heads"].check(backed_up)
    sums = direction_sums(backed_up)
    assert sums["block"].tolist() == ["vision_encoder", "text_encoder"]
    assert sums["denoising"].tolist() == pytest.approx([1.8, 1.8]) and sums["noising"].tolist() == pytest.approx(
        [0.6] * 2
    )
    assert (sums["n_heads"] == 3).all() and (sums["n"] == 4).all()
    assert ((sums["denoising_low"] < 1.8) & (sums["denoising_high"] > 1.8)).all()


def test_units_are_averaged_first():
    values = {("image", direction, "text_encoder", 0): [1.0, 1.0, 0.0] for direction in ("denoising", "noising")}
    together = direction_sums(whole_heads(values, units=["a", "a", "b"]))
    assert together["denoising"].tolist() == [0.5] and together["n_units"].tolist() == [2]
    assert direction_sums(whole_heads(values))["denoising"].tolist() == pytest.approx([2 / 3])


def test_heads_that_back_each_other_up_come_first(backed_up):
    means = compare_directions(backed_up)
    assert means["head"].tolist() == [0, 1, 0, 1, 2, 2], "enough alone but not needed must come first"
    assert means["difference"].tolist() == pytest.approx([0.9] * 4 + [-0.6] * 2)
    assert (means["denoising"] - means["noising"]).tolist() == pytest.approx(means["difference"].tolist())


def test_figures_show_what_the_table_has(backed_up):
    figure = denoising_against_noising(backed_up)
    points = [tuple(map(float, p)) for dots in figure.axes[0].collections for p in dots.get_offsets()]
    shown = sorted((round(x, 6) + 0, round(y, 6) + 0) for x, y in points)
    assert shown == sorted([(0.9, 0.0), (0.9, 0.0), (0.0, 0.6)] * 2)
    panels = [axes for axes in whole_head_map(backed_up).axes if axes.collections]
    assert len(panels) >= 4  # two blocks × two directions, and the color bar


def test_one_direction_is_refused(backed_up):
    one = backed_up[backed_up["direction"] == "noising"]
    for function in (direction_sums, compare_directions, denoising_against_noising):
        with pytest.raises(VlmtraceError, match="has no denoising"):
            function(one)
    other = backed_up.assign(corruption="text")
    part = pd.concat([backed_up, other[other["direction"] == "denoising"]])
    for function in (direction_sums, compare_directions, denoising_against_noising):
        with pytest.raises(VlmtraceError, match=r"Under text corruption .* pair 'pair-0' and head self-attention 0\.0"):
            function(part)
        with pytest.raises(VlmtraceError, match=r"Under image corruption .* in one direction only"):
            function(backed_up.iloc[1:])
        with pytest.raises(VlmtraceError, match="A head stands twice in a pair"):
            function(pd.concat([backed_up, backed_up]))
    with pytest.raises(VlmtraceError, match="has a contrast"):
        direction_sums(backed_up.assign(patching_effect=float("nan")))
