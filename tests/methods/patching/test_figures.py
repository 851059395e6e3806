"""Figures of patching effects show the means of their tables, in the order of the prompt, on honest scales."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fixtures import synthetic_tables as tables
from fixtures.figures import color_bar, heat_maps, lines_of_length, ticks

from vlmtrace import plots
from vlmtrace.core.errors import VlmtraceError


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> SimpleNamespace:
    return tables.every_table(tmp_path_factory.mktemp("pairs"))


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


def test_one_large_patch_does_not_bleach_the_others(data):
    table = data.modules.copy()
    inside = (table["block"] == "vision_encoder") & (table["sample_id"] == "color-0") & (table["position"] == 5)
    table.loc[inside & (table["layer"] == 0), "patching_effect"] = -2.0
    figure = plots.image_effect_map(table, data.pairs, n=1)
    assert figure.axes[2].images[0].get_clim() == (-0.2, 0.2), "the range is that of the other patches"
    assert color_bar(figure)._colorbar.extend == "both", "nothing says that a patch lies beyond"


def test_maps_of_means_show_the_means_of_all_pairs_by_task(data):
    rows = data.modules[(data.modules["block"] == "text_encoder") & (data.modules["corruption"] == "text")]
    both = pd.concat([rows.assign(task="t"), rows.assign(task="u", patching_effect=0.25)])
    figure = plots.mean_effect_maps(both, "text_encoder", "text")
    modules = ["cross_attention", "self_attention", "mlp", "residual"]
    panels = [axes for axes in figure.axes if axes.collections and axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in panels] == [name.replace("_a", "-a") for name in modules] * 2
    mlp = rows[rows["module"] == "mlp"].groupby(["sample_id", "layer", "token_role"])["patching_effect"].mean()
    expected = mlp.groupby(["layer", "token_role"]).mean()
    labels = [label.get_text().split(" (")[0] for label in panels[2].get_xticklabels()]
    column = panels[2].collections[0].get_array().reshape(-1, len(labels))[:, labels.index("correct")]
    np.testing.assert_allclose(column, [expected[layer, "correct"] for layer in range(len(column))])
    assert np.allclose(panels[-1].collections[0].get_array().compressed(), 0.25)
    assert len({axes.collections[0].get_clim() for axes in panels}) == 1, "panels share one range"
    with pytest.raises(VlmtraceError, match="All effects are missing"):
        plots.mean_effect_maps(rows.assign(patching_effect=np.nan), "text_encoder", "text")


def test_pairs_without_masks_are_drawn_without_outlines(data):
    bare = data.pairs.drop(columns=["clean_object_mask", "clean_distractor_mask"])
    figure = plots.image_effect_map(data.modules, bare, n=1)
    axes = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert not figure.legends and not any(found for panel in axes for found in panel.collections)


def test_regions_are_drawn_at_their_means():
    figure = plots.region_effects(tables.make_region_effects(["object", "image"]))
    assert [axes.get_title() for axes in figure.axes] == ["residual", "mlp"]
    for axes in figure.axes:
        found = lines_of_length(axes, 3)
        np.testing.assert_allclose(found[0], [0, -0.1, -0.2], atol=1e-9)
        np.testing.assert_allclose(found[1], [1, 0.9, 0.8], atol=1e-9)
    assert "n = 4 pairs" in figure.get_suptitle()


def test_profiles_of_two_models_share_their_scale():
    rows = [
        (model, corruption, f"p{pair}", module, "text", layer, 0.1 * layer * (2 if model == "b" else 1))
        for model in "ab" for corruption in ("image", "text") for pair in range(3)
        for module in ("mlp", "self_attention") for layer in range(3)
    ]  # fmt: skip
    columns = ["model", "corruption", "sample_id", "module", "where", "layer", "patching_effect"]
    figure = plots.layer_profiles(pd.DataFrame(rows, columns=columns))
    assert len(figure.axes) == 4 and figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    np.testing.assert_allclose(lines_of_length(figure.axes[1], 3)[0], [0, 0.2, 0.4], atol=1e-9)


def test_a_missing_column_gets_a_sentence():
    with pytest.raises(VlmtraceError, match="no column 'layer'"):
        plots.region_effects(tables.make_region_effects(["object"]).drop(columns="layer"))
