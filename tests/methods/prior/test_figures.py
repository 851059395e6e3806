"""Figures of image and words show the numbers of their tables."""

import numpy as np
import pandas as pd
import pytest
from fixtures.prior_tables import damping, log_odds, sides

from vlmtrace import plots
from vlmtrace.core.errors import VlmtraceError


def test_parts_are_drawn_at_their_means():
    means = log_odds()
    figure = plots.log_odds_bars(means, panels="model")
    assert len(figure.axes) == 2 and figure.axes[0].get_title() == "one"
    drawn = {line.get_label(): line for line in figure.axes[0].containers}
    assert set(drawn) == {"all of it", "without both", "image", "words"}
    image = means[(means["model"] == "one") & (means["part"] == "image")]["mean"]
    np.testing.assert_allclose(np.asarray(drawn["image"].lines[0].get_xdata(), dtype=float), image)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["plain", "misleading"]
    with pytest.raises(VlmtraceError, match="A part stands twice"):
        plots.log_odds_bars(pd.concat([means, means]), panels="model")


def test_one_part_needs_no_legend():
    means = log_odds()
    assert plots.log_odds_bars(means, panels="model").legends
    alone = plots.log_odds_bars(means[means["part"] == "log_odds"], panels="model")
    assert not alone.legends and len(alone.axes[0].containers) == 1


def test_heads_are_drawn_where_they_are_and_the_farthest_is_named():
    table = sides()
    figure = plots.head_sides_map(table, n_named=1)
    points = np.concatenate([collection.get_offsets() for collection in figure.axes[0].collections])
    one = table[table["model"] == "one"]
    assert sorted(map(tuple, points)) == sorted(map(tuple, one[["image", "words"]].to_numpy()))
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.1"], "head 1 of layer 0 carries most"
    assert len(plots.head_sides_map(table.drop(columns="model")).axes) == 1


def test_repairs_stand_above_and_spoilt_answers_below():
    figure = plots.damping_effects(damping())
    assert len(figure.axes) == 2
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in figure.axes[1].containers}
    assert heights["repaired, chosen heads"] == [0.0, 0.4] and heights["spoiled, chosen heads"] == [-0.3, -0.0]


@pytest.mark.parametrize("draw", [plots.log_odds_bars, plots.head_sides_map, plots.damping_effects])
def test_a_missing_column_gets_a_sentence(draw):
    with pytest.raises(VlmtraceError, match="has no column"):
        draw(pd.DataFrame({"model": ["one"]}))
