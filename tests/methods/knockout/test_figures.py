"""Figures of interventions on several positions show the tables' means."""

import numpy as np
import pandas as pd
import pytest

from vlmtrace import plots
from vlmtrace.core.errors import VlmtraceError


def made_up(regions, modules=("residual", "mlp"), n_layers=3, n_pairs=4) -> pd.DataFrame:
    """Effects that fall with the layer, each region at its own height; pairs scatter evenly around."""
    rows = [
        (f"p{pair}", module, layer, region, height - 0.1 * layer + 0.01 * (pair - (n_pairs - 1) / 2))
        for pair in range(n_pairs)
        for module in modules
        for layer in range(n_layers)
        for height, region in enumerate(regions)
    ]
    table = pd.DataFrame(rows, columns=["sample_id", "module", "layer", "token_role", "patching_effect"])
    return table.assign(corruption="image", block="language_model", token="2 layers")


def drawn(axes) -> list[np.ndarray]:
    return [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == 3]


def test_regions_are_drawn_at_their_means():
    figure = plots.region_effects(made_up(["object", "image"]))
    assert [axes.get_title() for axes in figure.axes] == ["residual", "mlp"]
    for axes in figure.axes:
        found = drawn(axes)
        np.testing.assert_allclose(found[0], [0, -0.1, -0.2], atol=1e-9)
        np.testing.assert_allclose(found[1], [1, 0.9, 0.8], atol=1e-9)
    assert "n = 4 pairs" in figure.get_suptitle()


def test_knockouts_are_drawn_at_their_means():
    cut = made_up(["image → last"], modules=["self_attention"])
    replaced = made_up(["object", "image"], modules=["image_embeddings"], n_layers=1)
    figure = plots.knockout_effects(cut, replaced)
    np.testing.assert_allclose(drawn(figure.axes[0])[0], [0, -0.1, -0.2], atol=1e-9)
    assert "window of 2" in figure.axes[0].get_xlabel()
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["object", "image"]


def test_profiles_of_two_models_share_their_scale():
    rows = [
        (model, corruption, f"p{pair}", module, "text", layer, 0.1 * layer * (2 if model == "b" else 1))
        for model in "ab" for corruption in ("image", "text") for pair in range(3)
        for module in ("mlp", "self_attention") for layer in range(3)
    ]  # fmt: skip
    columns = ["model", "corruption", "sample_id", "module", "where", "layer", "patching_effect"]
    figure = plots.layer_profiles(pd.DataFrame(rows, columns=columns))
    assert len(figure.axes) == 4 and figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    np.testing.assert_allclose(drawn(figure.axes[1])[0], [0, 0.2, 0.4], atol=1e-9)


@pytest.mark.parametrize("plot", [plots.region_effects, plots.knockout_effects])
def test_a_missing_column_gets_a_sentence(plot):
    with pytest.raises(VlmtraceError, match="no column 'layer'"):
        plot(made_up(["object"]).drop(columns="layer"))
