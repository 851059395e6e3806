"""Figures of image and words show the numbers of their tables."""

import numpy as np
import pandas as pd
import pytest
from fixtures.prior_tables import damping, early, log_odds, priors, sides, steering

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


def test_a_prior_has_a_frame_where_it_stands():
    figure = plots.prior_map(priors())
    panels = figure.axes[:2]
    assert [axes.get_title() for axes in panels] == ["shown", "usual"]
    assert not panels[0].patches
    (frame,) = panels[1].patches
    assert frame.get_xy() == (0.5, 0.5), "pink is the second color, and the cross the second thing"
    np.testing.assert_allclose(np.asarray(panels[1].images[0].get_array()), [[0.1] * 3, [0.1, 0.8, 0.1]])
    with pytest.raises(VlmtraceError, match="stands twice"):
        plots.prior_map(pd.concat([priors(), priors()]))


def test_curves_go_through_their_means():
    figure = plots.early_curves(early(), panels="block")
    assert len(figure.axes) == 2
    drawn = {line.get_label(): np.asarray(line.lines[0].get_ydata(), dtype=float) for line in figure.axes[0].containers}
    np.testing.assert_allclose(drawn["shown"], [-3, 0, 3])
    with pytest.raises(VlmtraceError, match="stands twice"):
        plots.early_curves(early().drop(columns="block"), panels="block")
    drawn = {
        line.get_label(): np.asarray(line.lines[0].get_ydata(), dtype=float)
        for line in plots.steering_effects(steering()).axes[0].containers
    }
    np.testing.assert_allclose(drawn["mean difference"], [0, 0.9, 0])
    np.testing.assert_allclose(drawn["random directions"], [0, 0, 0])
    with pytest.raises(VlmtraceError, match="no row"):
        plots.steering_effects(steering().iloc[:0])


def test_a_panel_without_right_answers_says_so():
    table = steering()
    is_usual = table["category"] == "usual"
    table.loc[is_usual, ["n_right", "turned", "turned_low", "turned_high"]] = 0, np.nan, np.nan, np.nan
    shown, usual = plots.steering_effects(table).axes
    assert not shown.texts
    assert "no answer was right" in usual.texts[0].get_text()
    assert not len(usual.get_xticks()) and len(shown.get_xticks()), "an empty panel has layers"


@pytest.mark.parametrize(
    "draw",
    [
        plots.log_odds_bars,
        plots.head_sides_map,
        plots.damping_effects,
        plots.prior_map,
        plots.early_curves,
        plots.steering_effects,
    ],
)
def test_a_missing_column_gets_a_sentence(draw):
    with pytest.raises(VlmtraceError, match="has no column"):
        draw(pd.DataFrame({"model": ["one"]}))
