"""Figures of attention show the weights where they lie in the image, and the scores of functions."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fixtures import synthetic_tables as tables
from fixtures.figures import color_bar, ticks
from matplotlib.contour import ContourSet
from PIL import Image

from vlmtrace import plots
from vlmtrace.core.errors import VlmtraceError


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> SimpleNamespace:
    return tables.every_table(tmp_path_factory.mktemp("pairs"))


def overlay(data):
    pair = data.pairs.iloc[0]
    masks = pair["clean_object_mask"], pair["clean_distractor_mask"]
    return plots.attention_overlay(pair["clean_image"], data.attention[0, 0], *masks)


def test_overlay_shows_the_weights_and_the_outlines_of_the_masks(data):
    figure = overlay(data)
    axes = figure.axes[1]
    ground, attention = axes.images
    assert np.allclose(attention.get_array(), data.attention[0, 0])
    assert attention.get_clim() == pytest.approx((0, data.attention[0, 0].max()))
    assert attention.get_extent() == ground.get_extent() == [0, 96, 96, 0], "patches must span the whole image"
    outlines = [found for found in axes.collections if isinstance(found, ContourSet)]
    boxes = [outline.get_paths()[0].get_extents().extents for outline in outlines]
    # Masks of the first pair: a disk in 8 … 48 × 12 … 52 and a square in 56 … 82 × 60 … 86.
    assert np.allclose(boxes, [[8, 12, 49, 53], [56, 60, 83, 87]], atol=1), f"outlines lie elsewhere: {boxes}"
    assert "evenly spread, 1/64" in color_bar(figure).get_xlabel()
    (line,) = [line for line in color_bar(figure).lines if len(set(line.get_xdata())) == 1]
    assert line.get_xdata()[0] == pytest.approx(1 / 64)


def test_attention_that_is_none_is_refused(data, tmp_path):
    with pytest.raises(VlmtraceError, match="shares that sum to at most 1"):
        plots.attention_overlay(data.pairs["clean_image"][0], data.attention[0, 0] * 2)
    with pytest.raises(VlmtraceError, match=r"not an array of shape \(64,\)"):
        plots.attention_overlay(data.pairs["clean_image"][0], data.attention[0, 0].ravel())
    Image.new("L", (48, 48)).save(tmp_path / "small.png")
    with pytest.raises(VlmtraceError, match="is 48 × 48 pixels and its image 96 × 96"):
        plots.attention_overlay(data.pairs["clean_image"][0], data.attention[0, 0], tmp_path / "small.png")
    with pytest.raises(VlmtraceError, match="3 pairs and 1 heads"):
        plots.attention_gallery(data.pairs[:3], data.attention, ["2.5"])


def test_gallery_shares_one_range(data):
    figure = plots.attention_gallery(data.pairs[:3], data.attention, ["2.5", "3.1"])
    panels = [axes for axes in figure.axes if len(axes.images) == 2]
    assert len(panels) == 6
    assert len({axes.images[1].get_clim() for axes in panels}) == 1
    assert np.allclose(panels[3].images[1].get_array(), data.attention[1, 1]), "pairs are rows, heads are columns"


def test_one_bright_patch_does_not_empty_the_other_panels(data):
    """Of 384 patches one has half of a head's attention; the bar says that it lies beyond."""
    weights = data.attention / 2
    weights[0, 0, 0, 0] = 0.5
    figure = plots.attention_gallery(data.pairs[:3], weights, ["2.5", "3.1"])
    (limit,) = {axes.images[1].get_clim()[1] for axes in figure.axes if len(axes.images) == 2}
    assert limit < 0.2 and (weights <= limit).mean() > 0.98
    assert color_bar(figure)._colorbar.extend == "max", "nothing says that some patches lie beyond"
    even = plots.attention_gallery(data.pairs[:3], np.full_like(weights, 1 / 64), ["2.5", "3.1"])
    assert color_bar(even)._colorbar.extend == "neither"


def test_functions_are_grouped_and_scored(data):
    ratio, contrast = plots.function_scores(data.functions).axes
    assert ticks(ratio, "y")[:4] == [f"cross-attention {head}" for head in ("1.0", "1.1", "1.2", "0.0")]
    groups = ["object detection", "object suppression", "outlier suppression", "none"]
    assert [text.get_text() for text in ratio.texts] == groups
    for axes, score in ((ratio, "ratio"), (contrast, "contrast")):
        rows = data.functions[data.functions["region"] == "object"].set_index(["layer", "head"])
        bars = next(found for found in axes.containers if found.get_label() == "object")
        points, _, (interval,) = bars.lines
        expected = rows.loc[[(1, 0), (1, 1), (1, 2), (0, 0)]]
        assert np.allclose(points.get_xdata()[:4], expected[score]), f"{score} of the object"
        ends = [segment[:, 0] for segment in interval.get_segments()[:4]]
        assert np.allclose(ends, expected[[f"{score}_low", f"{score}_high"]]), f"interval of the {score}"
    assert {line.get_xdata()[0] for line in ratio.lines if line.get_linestyle() == ":"} == {1.5, 1 / 1.5}


def test_functions_of_important_heads_only(data):
    heads = pd.DataFrame({"block": "text_encoder", "module": "cross_attention", "layer": 1, "head": [0, 3, 4]})
    figure = plots.function_scores(data.functions, heads.assign(is_important=[True, True, False]))
    assert ticks(figure.axes[0], "y") == ["cross-attention 1.0", "cross-attention 1.3"]
    assert figure.get_suptitle() == "Where 2 important heads look (n = 30 pairs)"
    assert plots.function_scores(data.functions, at_most=5).get_suptitle() == "Where 5 of 12 heads look (n = 30 pairs)"
    others = plots.function_scores(data.functions, heads.assign(is_important=True, module="self_attention"))
    assert others.get_suptitle() == "Where 12 heads look (n = 30 pairs)", "no important head is scored: show all"
