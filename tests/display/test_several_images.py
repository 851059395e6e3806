"""Figures and explorers of pairs that ask about several images: both are shown, side by side."""

import numpy as np
import pandas as pd
import pytest
from fixtures.several_pairs import UNLIKE, two_image_pairs

import vlmtrace as vt
from vlmtrace import plots
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display import Session
from vlmtrace.display.aggregation import patch_grids
from vlmtrace.display.panels import masks_of
from vlmtrace.methods.attention import attention_explorer
from vlmtrace.methods.patching import head_explorer, module_explorer


@pytest.fixture
def pairs(tmp_path):
    return two_image_pairs(tmp_path / "two")


@pytest.fixture
def llava(model_store):
    return model_store.shared("llava")


def grids_of(figure):
    """Rows and columns of all pictures that a figure shows."""
    return [image.get_array().shape[:2] for axes in figure.axes for image in axes.images]


def test_an_example_shows_its_images_side_by_side(llava, pairs):
    example = Session(llava, pairs).example
    assert example.image.size == (72, 40) and example.other_image.size == (72, 40)
    before, after = (np.asarray(image) for image in (example.image, example.other_image))
    assert np.array_equal(before[:, :34], after[:, :34]) and (before[:, 38:] != after[:, 38:]).any()
    boxes = example.cells("language_model")
    assert boxes.shape == (18, 4) and np.nanmax(boxes[:9, 3]) <= 0.5 <= np.nanmin(boxes[9:, 1])
    seen, (rows, columns) = example.seen()
    assert (rows, columns) == (6, 3) and seen.size == (42, 84)
    record = example.attention()
    assert len(record.patches) == 18 and record.weights.shape[2] == len(record.queries)
    assert "image 2 object" in example.regions
    assert example.images_in_code == 'pair["clean_images"]'


def test_images_that_a_model_sees_at_unlike_sizes_are_said(model_store, tmp_path):
    model = model_store.shared("qwen2_vl")
    example = Session(model, two_image_pairs(tmp_path / "unlike", UNLIKE, 1)).example
    assert example.image.size == (36 + 80, 40)
    with pytest.raises(VlmtraceError, match="at unlike sizes"):
        example.seen()


@pytest.mark.medium
def test_every_view_follows(llava, pairs):
    from vlmtrace.app.shell import Explorer

    explorer = Explorer(Session(llava, pairs))
    for title, view in explorer.views.items():
        explorer.open(title)
        assert not view.frame.error, f"{title}: {view.frame.error}"
        if hasattr(view, "compute"):
            view.compute()
        assert "clean_images" in view.code(), title


@pytest.mark.medium
def test_figures_and_explorers_draw_both_images(llava, pairs):
    evaluated = vt.evaluate(llava, pairs)
    effects = vt.patch_modules(llava, evaluated, modules=["residual"])
    heads = vt.patch_heads(llava, evaluated, positions=["last"])
    vision = effects[effects["block"] == "vision_encoder"]
    figure = plots.pair_gallery(evaluated, n=2)
    assert set(grids_of(figure)) == {(40, 72)}
    drawn = module_explorer(llava, evaluated, effects).figure(
        sample_id="two-0", corruption="image", site=("vision_encoder", "residual")
    )
    assert (3, 6) in grids_of(drawn)
    assert (40, 72) in grids_of(head_explorer(llava, evaluated, heads).figure())
    assert (40, 72) in grids_of(attention_explorer(llava, evaluated).figure())
    assert (3, 6) in grids_of(plots.image_effect_map(vision, evaluated, "residual", corruption="image"))


def test_grids_of_images_stand_side_by_side():
    def effects(role, rows, columns, first):
        places = [(row, column) for row in range(rows) for column in range(columns)]
        return pd.DataFrame(
            {
                "layer": 0,
                "position": range(first, first + len(places)),
                "token": [f"{row},{column}" for row, column in places],
                "token_role": role,
                "patching_effect": np.arange(float(len(places))) + first,
            }
        )

    alike = pd.concat([effects("image 1", 2, 2, 0), effects("image 2", 2, 2, 4)])
    assert patch_grids(alike)[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    unlike = pd.concat([effects("image 1", 2, 2, 0), effects("image 2", 1, 2, 4)])
    found = patch_grids(unlike, [(2, 2), (1, 2)])[0]
    assert found.tolist() == [[0, 1, 4, 4, 5, 5], [2, 3, 4, 4, 5, 5]]
    with pytest.raises(VlmtraceError, match="There are 2 images and 1 grids"):
        patch_grids(unlike, [(2, 2)])
    with pytest.raises(VlmtraceError, match="do not fill 3 × 3"):
        patch_grids(alike, (3, 3))


def test_outlines_are_those_of_both_images(pairs):
    masks = masks_of(pairs.iloc[0])
    assert list(masks) == ["clean_object_mask"] and masks["clean_object_mask"].size == (72, 40)


def test_labels_tell_the_images_apart_beside_long_ones():
    roles = ["<|begin_of_image|>", "image 1", "<|end_of_image|>", "image 2", "correct", "incorrect", "last"]
    rows = [
        dict(sample_id=f"{category}-{i}", category=category, correct_first=i == 0, layer=layer, position=at,
             token_role=role, patching_effect=0.5)
        for category in ("which", "color") for i in range(2) for layer in range(3) for at, role in enumerate(roles)
        if (category, i) != ("color", 1)
    ]  # fmt: skip
    effects = pd.DataFrame(rows).assign(corruption="image", block="language_model", module="residual")
    figure = plots.effect_heatmap(effects, "residual")
    figure.canvas.draw()
    seen = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible()}
    for title in ("which, incorrect option first (n = 1)", "color, correct option first (n = 1)"):
        axes = seen[title]
        assert [label.get_text() for label in axes.get_xticklabels()] == roles
        assert axes.xaxis.get_tick_params()["labelbottom"], "nothing stands below it, so that it has the labels"
