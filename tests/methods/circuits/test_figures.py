"""Figures of heads and circuits show the numbers and marks of their tables."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fixtures import synthetic_tables as tables
from fixtures.figures import heat_maps, marks, ticks

from vlmtrace import plots
from vlmtrace.core.errors import VlmtraceError


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> SimpleNamespace:
    return tables.every_table(tmp_path_factory.mktemp("pairs"))


def test_head_map_shows_means_and_marks(data):
    figure = plots.head_map(data.heads, "rendered_faces", "image")
    cell = data.heads[(data.heads["task"] == "rendered_faces") & (data.heads["corruption"] == "image")]
    drawn = heat_maps(figure)
    for module, (axes, values, limits) in zip(("self_attention", "cross_attention"), drawn, strict=True):
        expected = cell[cell["module"] == module].pivot(index="layer", columns="head", values="mean_effect")
        assert np.allclose(values, expected), f"{module}: cells differ from the table"
        assert limits == (-0.5, 0.5)
        numbers = [text.get_text() for text in axes.texts]
        assert numbers[2 * 8 + 3] == f"{expected.loc[2, 3]:.2f}".replace("-0.00", "0.00").replace("-", "−")
    assert marks(drawn[0][0]) == [set(), set()], "no self-attention head is important"
    ring, disk = marks(drawn[1][0])
    assert disk == {(2, 5), (3, 1)}, "disks must mark the heads with is_important"
    assert ring == {(2, 5)}, "rings must mark the heads with is_important_notice"


def test_head_map_has_a_panel_for_each_task_corruption_and_module(data):
    titles = [axes.get_title(loc="left") for axes, *_ in heat_maps(plots.head_map(data.heads, corruption="text"))]
    assert titles[:3] == [
        "rendered states, text corruption: self-attention",
        "rendered states, text corruption: cross-attention",
        "rendered faces, text corruption: self-attention",
    ]
    assert len(titles) == 6
    with pytest.raises(VlmtraceError, match="Unknown task 'states': choose one of rendered_states"):
        plots.head_map(data.heads, "states")


def test_universal_heads_stand_above_the_line_in_bold(data):
    (axes, values, _), *_ = heat_maps(plots.universal_head_table(data.heads))
    assert [label.split("   ") for label in ticks(axes, "y")] == [
        ["cross-attention 2.5", "6/6"],
        ["cross-attention 3.1", "3/6"],
    ]
    assert [label.get_fontweight() for label in axes.get_yticklabels()] == ["bold", "normal"]
    assert [
        line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1 and line.get_linewidth() > 1
    ] == [1]
    head = data.heads[
        (data.heads["module"] == "cross_attention") & (data.heads["layer"] == 3) & (data.heads["head"] == 1)
    ]
    assert np.allclose(values[1], head["mean_effect"]), "cells must be the effects in each task and corruption"
    assert marks(axes) == [{(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (1, 0), (1, 2), (1, 4)}]
    assert np.diff(axes.get_ylim()) < 0, "the first head must stand on top"


def test_universal_head_table_says_what_it_leaves_out(data):
    figure = plots.universal_head_table(data.heads, at_most=1)
    assert figure.get_suptitle() == "1 of the 2 heads that are important somewhere"
    with pytest.raises(VlmtraceError, match="No head is important"):
        plots.universal_head_table(data.heads.assign(is_important=False))


def test_curves_are_ratios_of_means(data):
    figure = plots.faithfulness_curves(data.faithfulness)
    for axes, direction in zip(figure.axes, ("sufficiency", "necessity"), strict=True):
        lines = {line.get_label(): line for line in axes.lines}
        rows = data.faithfulness[data.faithfulness["direction"] == direction]
        for order, label in (("ranked", "heads by rank"), ("random", "random heads, mean")):
            # Every pair has the same gap here, so that the ratio of means is the mean of ratios.
            means = rows[rows["order"] == order].groupby("k")["patching_effect"].mean()
            assert np.allclose(lines[label].get_xydata(), np.c_[means.index, means]), f"{direction} of {order} heads"
        draws = [line for line in axes.lines if line.get_linewidth() == 0.5]
        assert len(draws) == 5, "every random draw must be seen"
        assert axes.get_title(loc="left") == "image corruption (n = 12 pairs, 12 units)"
        band = axes.collections[0].get_paths()[0]
        assert band.contains_point((8, lines["heads by rank"].get_ydata()[4])), "the interval misses its own mean"
        assert not axes.texts, "words in a panel lie on some curve"
        level = 0.8 if direction == "sufficiency" else 0.2
        assert set(lines["sufficient from .8, necessary up to .2"].get_ydata()) == {level}, f"no line at {level}"


def test_runs_are_drawn_one_at_a_time(data):
    both = pd.concat([data.faithfulness, data.faithfulness.assign(run="computed")])
    with pytest.raises(VlmtraceError, match="run"):
        plots.faithfulness_curves(both)
    assert len(plots.faithfulness_curves(both, run="computed").axes) == 2


def test_empty_tables_are_refused(data):
    for draw, table in ((plots.head_map, data.heads), (plots.faithfulness_curves, data.faithfulness)):
        with pytest.raises(VlmtraceError, match="has no rows"):
            draw(table.iloc[:0])
