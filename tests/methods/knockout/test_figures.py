"""The figure of knockouts shows the means of its tables."""

import numpy as np
import pytest
from fixtures import synthetic_tables as tables
from fixtures.figures import lines_of_length

from vlmtrace import plots
from vlmtrace.core.errors import VlmtraceError


def test_knockouts_are_drawn_at_their_means():
    cut = tables.make_region_effects(["image → last"], modules=["self_attention"])
    replaced = tables.make_region_effects(["object", "image"], modules=["image_embeddings"], n_layers=1)
    figure = plots.knockout_effects(cut, replaced)
    np.testing.assert_allclose(lines_of_length(figure.axes[0], 3)[0], [0, -0.1, -0.2], atol=1e-9)
    for axes in figure.axes:
        assert any(set(line.get_ydata()) == {-0.5} for line in axes.lines), "no line halfway between clean and corrupt"
        assert axes.get_legend() is None, "a legend in a panel covers what is drawn there"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["image → last"]
    assert "window of 2" in figure.axes[0].get_xlabel()
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["object", "image"]


def test_a_missing_column_gets_a_sentence():
    with pytest.raises(VlmtraceError, match="no column 'layer'"):
        plots.knockout_effects(tables.make_region_effects(["object"]).drop(columns="layer"))
