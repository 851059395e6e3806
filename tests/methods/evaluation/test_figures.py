"""Figures of pairs, accuracy and selection show what their tables hold."""

from types import SimpleNamespace

import numpy as np
import pytest
from fixtures import synthetic_tables as tables
from fixtures.figures import ticks
from matplotlib.container import ErrorbarContainer
from PIL import Image

from vlmtrace import plots
from vlmtrace.core.errors import VlmtraceError


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> SimpleNamespace:
    return tables.every_table(tmp_path_factory.mktemp("pairs"))


def test_gallery_shows_both_images_prompts_and_answers(data):
    figure = plots.pair_gallery(data.pairs, 2)
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "clean: red", "corrupt: blue", "clean: tiny", "corrupt: huge",
    ]  # fmt: skip
    assert figure.subfigs[0].get_suptitle() == (
        "color: Is this circle red or blue?\ntext corruption: Is this circle green or yellow?"
    )
    clean = np.asarray(Image.open(data.pairs["clean_image"][0]).convert("RGB"))
    assert np.array_equal(figure.axes[0].images[0].get_array(), clean), "the image is not shown as it is"


def test_pairs_without_masks_are_drawn_without_outlines(data):
    bare = data.pairs.drop(columns=["clean_object_mask", "clean_distractor_mask"])
    figure = plots.pair_gallery(bare, 2)
    axes = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert not figure.legends and not any(found for panel in axes for found in panel.collections)


def test_accuracy_points_and_intervals(data):
    figure = plots.accuracy_by_category(data.accuracy)
    clean = figure.axes[0]
    for index, first in enumerate((True, False)):
        bars = [found for found in clean.containers if isinstance(found, ErrorbarContainer)][index]
        rows = data.accuracy[(data.accuracy["measure"] == "clean") & (data.accuracy["correct_first"] == first)]
        points, _, (interval,) = bars.lines
        assert np.allclose(points.get_xdata(), rows["accuracy"])
        ends = np.array([segment[:, 0] for segment in interval.get_segments()])
        assert np.allclose(ends, rows[["ci_low", "ci_high"]])
    labels = ticks(clean, "y")
    assert labels[0] == "angry (n = 20 + 20)" and labels[-1] == "verb (n = 20 + 20)" and len(labels) == 13
    assert "rendered states" in [text.get_text() for text in clean.texts]
    chance = [line.get_xdata()[0] for axes in figure.axes for line in axes.lines if line.get_label() == "chance"]
    assert chance == [0.5, 0.5, 0.25], "giving up the answer has no chance level, the other three have"


def marked(axes) -> list[tuple]:
    """(number, row) of every mark of the wanted number."""
    return [tuple(xy) for line in axes.lines if line.get_label() == "wanted" for xy in line.get_xydata()]


def test_selection_bars_are_the_counts(data):
    figure = plots.selection_counts(data.selection)
    for axes in figure.axes:
        widths = [[bar.get_width() for bar in bars] for bars in axes.containers]
        assert widths == [[20, 20, 20], [18, 16, 14], [15, 15, 14]]
        assert marked(axes) == [(15, 0), (15, 1), (15, 2)], "the wanted number must be marked on every bar"
    unlimited = plots.selection_counts(data.selection.assign(wanted=np.nan))
    assert marked(unlimited.axes[0]) == [], "nothing was wanted, nothing is to be marked"


def test_empty_tables_are_refused(data):
    for draw, table in (
        (plots.accuracy_by_category, data.accuracy),
        (plots.selection_counts, data.selection),
        (plots.pair_gallery, data.pairs),
    ):
        with pytest.raises(VlmtraceError, match="has no rows"):
            draw(table.iloc[:0])


def test_a_pair_of_images_alone_shows_its_prompt_once(data):
    alone = data.pairs.assign(corrupt_prompt=data.pairs["clean_prompt"])
    assert plots.pair_gallery(alone, 2).subfigs[0].get_suptitle() == "color: Is this circle red or blue?"


def test_bins_of_logit_differences_meet_at_0(data):
    figure = plots.logit_differences(data.evaluated)
    columns = (("clean_logit_diff", "image_logit_diff"), ("clean_text_logit_diff", "text_logit_diff"))
    for axes, (clean, corrupt) in zip(figure.axes, columns, strict=True):
        starts = [bar.get_x() for bar in axes.patches]
        assert min(map(abs, starts)) < 1e-9, "a bin holds pairs of both answers"
        half = len(axes.patches) // 2
        for bars, column in ((axes.patches[:half], clean), (axes.patches[half:], corrupt)):
            assert sum(bar.get_height() for bar in bars) == len(data.evaluated), f"bins leave out pairs of {column}"
            below = sum(bar.get_height() for bar in bars if bar.get_x() < -1e-9)
            assert below == (data.evaluated[column] < 0).sum()
        wrong = (data.evaluated[clean] <= 0).sum(), (data.evaluated[corrupt] >= 0).sum()
        assert f"clean {wrong[0]}, corrupt {wrong[1]}" in axes.get_title(loc="left")


def test_a_corruption_that_no_pair_has_gets_no_panel(data):
    figure = plots.logit_differences(data.evaluated.assign(text_logit_diff=np.nan))
    assert len(figure.axes) == 1 and figure.axes[0].get_title(loc="left").startswith("image corruption")


@pytest.mark.parametrize("asked", ["image", "text"])
def test_a_corruption_that_was_not_asked_for_gets_no_panel(data, asked):
    """`evaluate` makes no column of it."""
    kept = {"image": ["clean_logit_diff", "image_logit_diff"], "text": ["clean_text_logit_diff", "text_logit_diff"]}
    (axes,) = plots.logit_differences(data.evaluated[kept[asked]]).axes
    assert axes.get_title(loc="left").startswith(f"{asked} corruption")


def test_without_any_logit_difference_a_column_is_named(data):
    with pytest.raises(VlmtraceError, match="has no column 'clean_logit_diff'"):
        plots.logit_differences(data.evaluated[[]].assign(sample_id="a"))
