"""Figures and explorers of the lens show what the tables say."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import vlmtrace as vt
from vlmtrace import plots
from vlmtrace.methods.lens.contributions import head_contributions, top_heads
from vlmtrace.methods.lens.explorers import patch_explorer, word_explorer
from vlmtrace.methods.lens.questions import lens_of
from vlmtrace.methods.lens.words import decode_to_words, image_boxes, stream_vectors
from vlmtrace.tasks.rendered import open_questions

IMAGE = Image.new("RGB", (40, 40), "gray")
MASK = Image.fromarray(np.pad(np.full((10, 10), 255, np.uint8), 15))


def contributions(values) -> pd.DataFrame:
    """Of (question, layer, head) contributions; a module's is the sum of its heads'."""
    question, layer, head = (index.ravel() for index in np.indices(values.shape))
    heads = pd.DataFrame({"sample_id": question, "layer": layer, "head": head, "log_p_increase": values.ravel()})
    wide = heads.groupby(["sample_id", "layer"], as_index=False)["log_p_increase"].sum()
    both = [wide.assign(head=pd.NA, module=name) for name in ("self_attention", "mlp")]
    return pd.concat([heads.assign(module="self_attention"), *both]).astype({"head": "Int64"})


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(mpl.text.Text)]


def test_heads_are_written_with_their_means():
    values = np.arange(12.0).reshape(2, 2, 3) / 10
    figure = plots.lens_heads(contributions(values))
    mean = values.mean(0)
    assert {f"{value:.2f}" for value in mean.ravel()} <= set(texts(figure))
    bars = [patch.get_width() for patch in figure.axes[1].patches if patch.get_width()]
    assert set(np.round(bars, 6)) == set(np.round(mean.sum(1), 6))


def test_maps_are_drawn_each_on_its_own_scale():
    maps = {"lens": np.array([[-1.0, 2.0], [0.0, 1.0]]), "attention": np.array([[0.1, 0.0], [0.0, 0.0]])}
    figure = plots.patch_maps([IMAGE, IMAGE], ["first?", "second?"], [maps, maps], [MASK, None])
    shown = [axes.images[1] for axes in figure.findobj(mpl.axes.Axes) if len(axes.images) == 2]
    assert [image.norm.vmax for image in shown] == [2.0, 0.1] * 2
    np.testing.assert_array_equal(shown[0].get_array(), [[0, 2], [0, 1]])
    assert "object asked about" in texts(figure)
    with pytest.raises(vt.VlmtraceError, match="2 images, 1 titles"):
        plots.patch_maps([IMAGE, IMAGE], ["one"], [maps, maps])


def test_measures_are_drawn_at_their_means():
    row = {"n": 9, "low": 0.4, "high": 0.8, "verdict": ""}
    table = pd.DataFrame(
        [{"measure": "auc", "method": name, "mean": mean, **row} for name, mean in (("lens", 0.6), ("random", 0.5))]
    )
    axes = plots.map_measures(table).axes[0]
    points = [line.get_xdata() for line in axes.lines if len(np.atleast_1d(line.get_xdata())) == 1]
    assert np.ravel(points).tolist() == [0.6, 0.5]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["lens", "random"]


def test_curves_are_drawn_at_their_means():
    rows = [
        (question, "lens", kind, share, height + 0.1 * question)
        for question in range(3)
        for kind, heights in (("deletion", (0.7, 0.3, 0.1)), ("insertion", (0.1, 0.6, 0.7)))
        for share, height in zip((0, 0.5, 1), heights, strict=True)
    ]
    figure = plots.map_curves(pd.DataFrame(rows, columns=["sample_id", "method", "kind", "share", "p"]))
    found = [axes.lines[0].get_ydata() for axes in figure.axes]
    np.testing.assert_allclose(found, [[0.8, 0.4, 0.2], [0.2, 0.7, 0.8]])


def test_words_by_layer_are_drawn_at_their_means():
    rows = [
        (question, "embedding", layer, place, share * (question + 1) / 2)
        for question in range(2)
        for layer in range(3)
        for place, share in (("object", 0.4), ("elsewhere", 0.2), ("answer", 0.1))
    ]
    axes = plots.words_by_layer(pd.DataFrame(rows, columns=["sample_id", "through", "layer", "place", "share"])).axes[0]
    np.testing.assert_allclose([line.get_ydata() for line in axes.lines], np.outer([0.3, 0.15, 0.075], np.ones(3)))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "out"]


def test_some_layers_and_places_are_drawn_as_what_they_are():
    rows = [(question, "embedding", layer, "answer", 0.4, False) for question in range(2) for layer in (1, 3)]
    columns = ["sample_id", "through", "layer", "place", "share", "is_output"]
    axes = plots.words_by_layer(pd.DataFrame(rows, columns=columns)).axes[0]
    assert len(axes.lines) == 1 and axes.lines[0].get_xdata().tolist() == [1, 3]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "3"] and "out" not in axes.get_xlabel()


def test_shared_heads_are_ringed():
    values = np.array([[[0.0, 1.0], [2.0, 3.0]]]) * np.ones((2, 1, 1))
    ablated = pd.DataFrame(
        [(run, heads, -1.0, -2.0, -0.5, 2) for run in ("visual", "textual") for heads in ("chosen", "random")],
        columns=["run", "heads", "log_odds_change", "low", "high", "n"],
    )
    figure = plots.visual_against_textual(contributions(values), contributions(2 * values), ablated, [(1, 0)])
    rings = figure.axes[0].collections[-1].get_offsets()
    np.testing.assert_allclose(rings, [[2.0, 4.0]])
    assert any("1.0" in text and "ringed" in text for text in texts(figure))


# The explorers, on the bundled model ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llava():
    return vt.load_model("tiny-llava")


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return open_questions(2, 0).rename(columns={"question": "prompt", "kind": "category"})


@pytest.mark.medium
def test_every_patch_has_its_words(llava, questions):
    question = questions.iloc[0]
    lens = lens_of(llava, question)
    boxes = image_boxes(lens, question["image"])
    words = decode_to_words(lens, stream_vectors(lens, "input", 0), boxes["position"], 5, "embedding")
    figure = plots.word_grid(question["image"], boxes, words, "title", question["answer"], question["object_mask"])
    shown = texts(figure)
    for name, count in words["word"].value_counts().items():
        assert shown.count(name) >= count
    green = [patch for patch in figure.axes[1].patches if np.allclose(patch.get_facecolor()[3], 0.55)]
    assert len(green) == words[words["word"] == question["answer"]]["position"].nunique() > 0


def test_patches_are_explored_head_by_head(llava, questions):
    explorer = patch_explorer(llava, questions)
    assert "10 strongest heads" in explorer.figure().get_suptitle()
    strongest = top_heads(head_contributions(lens_of(llava, questions.iloc[1])), 1)[0]
    explorer.controls["sample_id"].value = questions["sample_id"][1]
    assert explorer.controls["head"].options[1][1] == strongest
    figure = explorer.figure(head=strongest)
    assert f"head {strongest.layer}.{strongest.head}" in figure.get_suptitle()
    assert any("nats from the image" in text for text in texts(figure))


@pytest.mark.medium
def test_words_are_explored_by_patch_and_by_layer(llava, questions):
    explorer = word_explorer(llava, questions)
    position = explorer.controls["patch"].options[10][1]
    assert len(explorer.controls["patch"].options) == 65
    lens = lens_of(llava, questions.iloc[0])
    for quantity in ("input", "key", "value", "output"):
        figure = explorer.figure(quantity=quantity, layer=1, head=2, patch=position)
        first = decode_to_words(lens, stream_vectors(lens, quantity, 3, 2), [position], 1, "embedding")
        assert any(text.startswith(f"{first['word'][0]}\n") for text in texts(figure))
        assert ("out" in texts(figure)) == (quantity == "input")
        assert "layer 1" in explorer.figure(quantity=quantity, layer=1, head=2).get_suptitle().replace(
            "head 1.2", "layer 1"
        )
    with pytest.raises(vt.VlmtraceError, match="no image token at position 0"):
        explorer.figure(patch=0)
