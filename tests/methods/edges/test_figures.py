"""The figure of a circuit shows the table's edges, their size and their sign."""

import matplotlib.colors as colors
import numpy as np
import pandas as pd
import pytest
from fixtures import synthetic_tables as tables
from matplotlib.patches import FancyArrowPatch

from vlmtrace import plots
from vlmtrace.methods.edges.figures import AGAINST, TOWARDS


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return tables.make_pairs(tmp_path_factory.mktemp("pairs"), n=2)


def arrows(figure):
    """What is drawn of each edge, by "sender>receiver"."""
    found = figure.axes[0].findobj(FancyArrowPatch)
    return {arrow.get_gid(): arrow for arrow in found if arrow.get_gid()}


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_edges_are_wide_by_effect_and_colored_by_sign():
    edges = tables.make_edges()
    drawn = arrows(plots.edge_circuit(edges))
    assert set(drawn) == set(edges["sender"] + ">" + edges["receiver"])
    widths = {}
    for edge in edges.itertuples():
        arrow = drawn[f"{edge.sender}>{edge.receiver}"]
        expected = TOWARDS if edge.patching_effect > 0 else AGAINST
        assert colors.same_color(arrow.get_edgecolor()[:3], expected), f"{edge.sender} has the other sign's color"
        widths[abs(edge.patching_effect)] = arrow.get_linewidth()
        into_key = edge.receiver.endswith(".key")
        assert (arrow.get_linestyle() != "-") == (into_key or edge.receiver.endswith(".query"))
    order = sorted(widths)
    assert np.allclose(np.diff([widths[size] for size in order]) / np.diff(order), 4.6 / 0.6), "width is not linear"


def test_only_the_strongest_are_drawn_and_the_title_says_so():
    figure = plots.edge_circuit(tables.make_edges(), n=3)
    assert len(arrows(figure)) == 3 and figure.get_suptitle() == "The 3 strongest of 7 edges"
    assert plots.edge_circuit(tables.make_edges()).get_suptitle() == "7 edges"


def test_a_pair_puts_its_image_question_and_answer_in(pairs):
    figure = plots.edge_circuit(tables.make_edges(), pairs)
    (inset,) = [axes for axes in figure.axes[0].child_axes if axes.images]
    assert len(inset.images) == 1, "an image without tints"
    assert pairs["correct_answer"].iloc[0] in texts(figure) and "output" not in texts(figure)
    assert pairs["clean_prompt"].iloc[0] in figure.get_suptitle().replace("\n", " ")
    assert {"0.1", "mlp", "1.0"} <= set(texts(figure)), "heads and mlps keep their names"


def test_the_image_is_tinted_by_patches_of_the_drawn_edges(pairs):
    (edge,) = tables.make_edges().query("sender == 'image' and patching_effect > 0").itertuples()
    patches = pd.DataFrame({"position": range(17), "token_role": ["[CLS]"] + 16 * ["image"]})
    patches = patches.assign(
        token=["[CLS]"] + [f"{i // 4},{i % 4}" for i in range(16)], sender="image", receiver=edge.receiver,
        patching_effect=np.linspace(-0.1, 0.3, 17), sample_id=pairs["sample_id"].iloc[0],
    )  # fmt: skip
    figure = plots.edge_circuit(patches, pairs)
    (inset,) = [axes for axes in figure.axes[0].child_axes if axes.images]
    tints = inset.images[1].get_array()
    assert np.allclose(tints, patches["patching_effect"].to_numpy()[1:].reshape(4, 4))
    assert colors.same_color(inset.images[1].cmap(1.0)[:3], TOWARDS), "another color than that of edges"


def test_means_say_how_many_pairs_they_are_of(pairs):
    edges = pd.concat([tables.make_edges().assign(sample_id=name) for name in "abc"])
    (legend,) = plots.edge_circuit(edges).legends
    assert "mean over n = 3 pairs" in legend.get_title().get_text()
    pictured = plots.edge_circuit(edges, pairs.assign(sample_id=["a", "b"])).legends[0].get_title().get_text()
    assert "one pair's" in pictured.replace("\n", " "), "it looks as if all pairs showed this image"
