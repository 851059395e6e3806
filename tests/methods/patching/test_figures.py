"""What figures show: the tables' numbers, in the right place, on honest scales, readable at page width."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fixtures import synthetic_tables as tables
from matplotlib.collections import QuadMesh
from matplotlib.container import ErrorbarContainer
from matplotlib.contour import ContourSet
from PIL import Image

from vlmtrace import plots
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display.aggregation import prompt_order, role_means, spread


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> SimpleNamespace:
    return tables.every_table(tmp_path_factory.mktemp("pairs"))


def overlay(data):
    pair = data.pairs.iloc[0]
    masks = pair["clean_object_mask"], pair["clean_distractor_mask"]
    return plots.attention_overlay(pair["clean_image"], data.attention[0, 0], *masks)


def heat_maps(figure) -> list[tuple]:
    """(axes, values as layer × column, color limits) of every heat map, in the order in which they were drawn."""
    found = []
    for axes in figure.axes:
        for mesh in axes.collections:
            if isinstance(mesh, QuadMesh) and axes.get_label() != "<colorbar>":
                found.append((axes, np.ma.filled(mesh.get_array().astype(float), np.nan), mesh.get_clim()))
    return found


def color_bar(figure):
    return next(axes for axes in figure.axes if axes.get_label() == "<colorbar>")


def ticks(axes, axis: str) -> list[str]:
    return [label.get_text() for label in getattr(axes, f"get_{axis}ticklabels")()]


def marks(axes) -> list[set]:
    """The cells (layer, head) of each kind of mark, in the order in which the kinds were drawn."""
    return [{(int(y), int(x)) for x, y in line.get_xydata()} for line in axes.lines if line.get_marker() == "o"]


# Averages ----------------------------------------------------------------------------------------------------------


def effects_of(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["sample_id", "layer", "position", "token_role", "patching_effect"])


def test_positions_of_a_role_are_averaged_within_the_pair_first():
    means = role_means(effects_of([("a", 0, 0, "the", 0.2), ("a", 0, 1, "the", 0.4), ("b", 0, 0, "the", 0.9)]))
    assert means.matrix.loc[0, "the"] == pytest.approx((0.3 + 0.9) / 2), "each pair must weigh the same"
    assert means.labels == ["the (2×)"] and means.n == (2, 2)


def test_missing_effects_are_left_out_and_counted():
    means = role_means(effects_of([("a", 0, 0, "the", 0.5), ("b", 0, 0, "the", np.nan)]))
    assert means.matrix.loc[0, "the"] == 0.5 and means.n == (1, 1)
    assert role_means(effects_of([("a", 0, 0, "the", np.nan)])) is None


def test_roles_stand_in_the_order_of_the_most_frequent_prompt():
    prompts = {"a": "is correct or incorrect ?", "b": "is incorrect or correct ?", "c": "is correct or incorrect now ?"}
    rows = [(pair, 0, i, role, 0.0) for pair, prompt in prompts.items() for i, role in enumerate(prompt.split())]
    # The mean position would put "correct", "or" and "incorrect" into an order that no prompt has.
    assert prompt_order(effects_of(rows)) == ["is", "correct", "or", "incorrect", "now", "?"]


def test_examples_are_spread_over_kinds(data):
    shown = spread(data.pairs, 6)
    assert shown[["category", "correct_first"]].drop_duplicates().shape[0] == 6, (
        "six kinds there are, six must be shown"
    )


# Effects -----------------------------------------------------------------------------------------------------------


def test_heat_map_cells_equal_the_means_of_the_table(data):
    figure = plots.effect_heatmap(data.modules, "cross_attention", corruption="image", pairs=data.pairs)
    titles = [axes.get_title(loc="left") for axes, *_ in heat_maps(figure)]
    assert titles[:2] == ["color, correct option first (n = 2)", "color, incorrect option first (n = 2)"]
    table = data.modules.merge(data.pairs[["sample_id", "category", "correct_first"]])
    table = table[(table["module"] == "cross_attention") & (table["corruption"] == "image")]
    kinds = [(category, first) for category in ("color", "shape", "subject") for first in (True, False)]
    for (category, first), (axes, values, limits) in zip(kinds, heat_maps(figure), strict=True):
        part = table[(table["category"] == category) & (table["correct_first"] == first)]
        per_pair = part.groupby(["sample_id", "layer", "token_role"])["patching_effect"].mean()
        expected = per_pair.groupby(["layer", "token_role"]).mean().unstack()
        roles = [label.split(" (")[0] for label in ticks(axes, "x")]
        assert np.allclose(values, expected[roles]), f"{category}, {first}: cells differ from the table's means"
        options = [role for role in roles if role.endswith("correct")]
        assert options == (["correct", "incorrect"] if first else ["incorrect", "correct"]), "not the prompt's order"
        assert roles[0] == "[CLS]" and roles[-1] == "[SEP]"
        assert ticks(axes, "y") == ["0", "1", "2", "3"] and np.diff(axes.get_ylim()) > 0, "layer 0 is not at the bottom"
        assert limits == (-0.6, 0.6), "panels must share one range, symmetric around 0, that holds every mean"


def test_a_range_too_small_is_shown_as_such(data):
    narrow = plots.effect_heatmap(data.modules, "residual", "text_encoder", "image", by=(), limit=0.1)
    assert heat_maps(narrow)[0][2] == (-0.1, 0.1)
    assert color_bar(narrow)._colorbar.extend == "both", "effects beyond the range must be announced by arrows"
    wide = plots.effect_heatmap(data.modules, "residual", "text_encoder", "image", by=(), limit=1)
    assert color_bar(wide)._colorbar.extend == "neither"


def test_effects_that_cannot_be_drawn_are_refused_in_a_sentence(data):
    modules = data.modules
    with pytest.raises(VlmtraceError, match="several values of corruption: choose one of image, text"):
        plots.effect_heatmap(modules, "mlp", pairs=data.pairs)
    with pytest.raises(VlmtraceError, match="Unknown module 'attention'"):
        plots.effect_heatmap(modules, "attention", corruption="image", pairs=data.pairs)
    with pytest.raises(VlmtraceError, match="lack category, correct_first: pass pairs"):
        plots.effect_heatmap(modules, "mlp", corruption="image")
    with pytest.raises(VlmtraceError, match="'shape-1' is not in the pairs table"):
        plots.effect_heatmap(modules, "mlp", corruption="image", pairs=data.pairs[data.pairs["category"] == "color"])
    with pytest.raises(VlmtraceError, match="All effects of mlp are missing"):
        plots.effect_heatmap(modules.assign(patching_effect=np.nan), "mlp", corruption="image", by=())
    with pytest.raises(VlmtraceError, match="no column 'layer'"):
        plots.effect_heatmap(modules.drop(columns="layer"), "mlp", corruption="image", by=())


def test_image_effects_lie_where_the_patches_are(data):
    figure = plots.image_effect_map(data.modules, data.pairs, n=1)
    shown = data.modules[(data.modules["block"] == "vision_encoder") & (data.modules["sample_id"] == "color-0")]
    for layer, axes in enumerate(figure.axes[2:5]):
        expected = shown[(shown["layer"] == layer) & (shown["position"] > 0)].sort_values("position")["patching_effect"]
        assert np.allclose(axes.images[0].get_array(), expected.to_numpy().reshape(8, 8)), (
            "rows of patches are mixed up"
        )
        assert axes.images[0].get_clim() == (-0.2, 0.2)
        assert axes.get_title(loc="left") == f"layer {layer}"
    with pytest.raises(VlmtraceError, match="64 image patches do not fill 4 × 8"):
        plots.image_effect_map(data.modules, data.pairs, n=1, grid=(4, 8))


# Heads -------------------------------------------------------------------------------------------------------------


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
    assert ring == {(2, 5)}, "rings must mark the heads with is_important_2sd"


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


# Attention ---------------------------------------------------------------------------------------------------------


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
    with pytest.raises(VlmtraceError, match=r"has 48 × 48 pixels, its image 96 × 96"):
        plots.attention_overlay(data.pairs["clean_image"][0], data.attention[0, 0], tmp_path / "small.png")
    with pytest.raises(VlmtraceError, match="3 pairs and 1 heads"):
        plots.attention_gallery(data.pairs[:3], data.attention, ["2.5"])


def test_gallery_shares_one_range(data):
    figure = plots.attention_gallery(data.pairs[:3], data.attention, ["2.5", "3.1"])
    panels = [axes for axes in figure.axes if len(axes.images) == 2]
    assert len(panels) == 6
    assert {axes.images[1].get_clim() for axes in panels} == {(0, data.attention.max())}
    assert np.allclose(panels[3].images[1].get_array(), data.attention[1, 1]), "pairs are rows, heads are columns"


# Pairs, accuracy, selection, faithfulness --------------------------------------------------------------------------


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
    for figure in (plots.pair_gallery(bare, 2), plots.image_effect_map(data.modules, bare, n=1)):
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


def test_curves_are_means_over_pairs(data):
    figure = plots.faithfulness_curves(data.faithfulness)
    for axes, direction in zip(figure.axes, ("sufficiency", "necessity"), strict=True):
        lines = {line.get_label(): line for line in axes.lines}
        rows = data.faithfulness[data.faithfulness["direction"] == direction]
        for order, label in (("ranked", "heads by rank"), ("random", "random heads, mean")):
            means = rows[rows["order"] == order].groupby("k")["patching_effect"].mean()
            assert np.allclose(lines[label].get_xydata(), np.c_[means.index, means]), f"{direction} of {order} heads"
        draws = [line for line in axes.lines if line.get_linewidth() == 0.5]
        assert len(draws) == 5, "every random draw must be seen"
        assert axes.get_title(loc="left") == "image corruption (n = 12 pairs)"
        band = axes.collections[0].get_paths()[0]
        assert band.contains_point((8, lines["heads by rank"].get_ydata()[4])), "the interval misses its own mean"


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


def test_empty_tables_are_refused(data):
    for draw, table in (
        (plots.accuracy_by_category, data.accuracy),
        (plots.selection_counts, data.selection),
        (plots.head_map, data.heads),
        (plots.faithfulness_curves, data.faithfulness),
        (plots.pair_gallery, data.pairs),
    ):
        with pytest.raises(VlmtraceError, match="has no rows"):
            draw(table.iloc[:0])
