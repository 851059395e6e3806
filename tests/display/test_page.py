"""Every figure: readable at page width, its scale said, saved whole in both formats."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
from fixtures import synthetic_tables as tables
from fixtures.every_figure import FIGURES
from matplotlib.text import Text
from PIL import Image

from vlmtrace import plots
from vlmtrace.display.style import effect_limit, thin_ticks


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tables.every_table(tmp_path_factory.mktemp("pairs"))


def color_bar(figure):
    return next(axes for axes in figure.axes if axes.get_label() == "<colorbar>")


# Every figure ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_readable_at_page_width(name, data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # e.g. that the layout does not fit
        figure = FIGURES[name](data)
    assert figure.get_figwidth() <= 7, f"{name} is {figure.get_figwidth()} inches wide, a page's text is 7"
    for text in figure.findobj(Text):
        if text.get_text().strip():
            assert text.get_fontsize() >= 7, f"{name}: {text.get_text()!r} is set in {text.get_fontsize()} points"
    drawn, page = figure.get_tightbbox(), figure.bbox_inches
    margins = [drawn.x0, drawn.y0, page.x1 - drawn.x1, page.y1 - drawn.y1]
    assert min(margins) > -0.02, f"{name} sticks out of the page: left, bottom, right, top margins {margins} in"


@pytest.mark.parametrize("name", ["effects", "effects on the image", "heads", "universal heads"])
def test_color_bar_says_unit_baseline_n_and_range(name, data):
    label = color_bar(FIGURES[name](data)).get_xlabel()
    for needed in ("patching effect (0 = corrupt, 1 = clean)", "n ", "colors span ±"):
        assert needed in label, f"the color bar of {name} does not say {needed!r}: {label!r}"


def test_save_figure_writes_both_formats_in_print_size(tmp_path, data):
    figure = FIGURES["faithfulness"](data)
    png, pdf = plots.save_figure(figure, tmp_path / "figures" / "a.b")
    assert [png.name, pdf.name] == ["a.b.png", "a.b.pdf"], "a dot in the name must not cost its end"
    assert Image.open(png).size[0] == 1400, "7 inches at 200 dpi are 1400 pixels"
    assert pdf.read_bytes().startswith(b"%PDF")
    assert sorted(path.name for path in png.parent.iterdir()) == ["a.b.pdf", "a.b.png"], "temporary files are left"


def test_notebook_shows_a_figure_without_pyplot(data):
    figure = FIGURES["faithfulness"](data)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert plt.get_fignums() == [], "the figure stands in pyplot's list and would be shown twice, and kept forever"


def test_notebook_shows_the_file_that_was_saved(tmp_path, data):
    figure = FIGURES["faithfulness"](data)
    png, _ = plots.save_figure(figure, tmp_path / "figure")
    shown, size = figure._repr_png_()
    assert shown == png.read_bytes()
    assert size["width"] == 7 * 144, f"a page's width is shown {size['width']} pixels wide, not at 144 dpi"


@pytest.mark.parametrize("change", ["label", "note", "size", "panel"])
def test_what_changes_after_saving_is_laid_out_and_shown_anew(tmp_path, data, change):
    figure = FIGURES["faithfulness"](data)
    plots.save_figure(figure, tmp_path / "before")
    axes = figure.axes[0]
    left = axes.get_position().x0
    if change == "label":
        for label in axes.get_yticklabels():
            label.set_fontsize(30)
    elif change == "note":
        figure.text(0.5, 0.5, "a note")
    elif change == "size":
        figure.set_size_inches(6, 5)
    else:
        figure.axes[-1].remove()
    assert not isinstance(figure._repr_png_(), tuple), f"the figure as it was before its {change} changed is shown"
    plots.save_figure(figure, tmp_path / "after")
    assert (tmp_path / "after.png").read_bytes() != (tmp_path / "before.png").read_bytes()
    if change == "label":
        assert axes.get_position().x0 > left + 0.01, "the panel does not make room for its larger labels"
    assert figure.get_layout_engine() is not None, "saving a figure must leave its layout as it was"


def test_limits_are_round_and_hold_all_values():
    assert [effect_limit([v]) for v in (0.0, 0.01, 0.06, -0.21, 0.3, 1.0, -1.7)] == [
        0.05,
        0.05,
        0.06,
        0.3,
        0.3,
        1.0,
        2.0,
    ]
    assert effect_limit([np.nan, -0.4]) == 0.4, "missing effects must not count"
    assert effect_limit([]) == 0.05
    assert thin_ticks(4) == [0, 1, 2, 3]
    assert max(map(len, map(thin_ticks, range(1, 200)))) <= 12
