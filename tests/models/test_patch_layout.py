"""Where image tokens lie that are no single patches: squares of them, and cells of a small map."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from vlmtrace.models.families.lfm2 import PaddedTiles, pack_tiles
from vlmtrace.models.patch_layout import TokenRow, squares_of


def test_squares_average_what_patches_have_and_lie_around_their_boxes():
    values = np.arange(16.0).reshape(1, 4, 4, 1)
    assert squares_of(values, 2, boxes=False)[0, :, :, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    edges = np.linspace(0, 1, 5)
    boxes = np.array([[[[edges[i], edges[j], edges[i + 1], edges[j + 1]] for j in range(4)] for i in range(4)]])
    np.testing.assert_allclose(squares_of(boxes, 2, boxes=True)[0, 1, 0], [0.5, 0, 1, 0.5])
    np.testing.assert_allclose(squares_of(boxes, 1, boxes=True), boxes)


def test_tokens_that_lie_in_no_grid_are_one_row():
    row = TokenRow(lambda config, inputs: inputs["ids"] == config)
    assert row.grid(7, {"ids": torch.tensor([[1, 7, 7, 7, 2]])}) == (1, 1, 3)


@pytest.mark.medium
def test_cells_of_a_small_map_lie_side_by_side(model_store):
    """A convolutional encoder gives 4 × 4 tokens; its processor crops the middle of the image."""
    model = model_store.shared("fast_vlm")
    picture = Image.new("RGB", (120, 80))
    inputs = model.encode_image(picture)
    boxes = model.image_cells(picture, inputs)
    assert boxes.shape == (16, 4)
    # 120 × 80 pixels become 48 × 32, of which the middle 32 × 32 are kept: a sixth is missing on either side.
    np.testing.assert_allclose(boxes[0], [0, 1 / 6, 1 / 4, 1 / 3], atol=0.03)
    np.testing.assert_allclose(boxes[-1], [3 / 4, 2 / 3, 1, 5 / 6], atol=0.03)
    names = [token.text for token in model.tokens("language_model", model.prompt_text("?"), inputs)]
    assert {"0,0", "3,3"} <= set(names)


@pytest.mark.medium
def test_pooled_tokens_lie_in_their_tiles(model_store):
    """The tests' image processor gives the whole image and its halves, each of 2 × 2 tokens."""
    model = model_store.shared("perception_lm")
    picture = Image.new("RGB", (120, 80))
    boxes = model.image_cells(picture, model.encode_image(picture)).reshape(3, 4, 4)
    np.testing.assert_allclose(boxes[0, 0], [0, 0, 0.5, 0.5], atol=0.03)
    np.testing.assert_allclose(boxes[1, 1], [0, 0.25, 0.5, 0.5], atol=0.03)
    np.testing.assert_allclose(boxes[2, 3], [0.5, 0.75, 1, 1], atol=0.03)


def test_tiles_of_unlike_size_are_put_together_from_their_patches():
    """LFM2-VL cuts an image into tiles and adds a small one of the whole image, padded to as many patches."""
    config = SimpleNamespace(vision_config=SimpleNamespace(patch_size=2))
    generator = np.random.default_rng(0)
    sizes, pictures, rows_of_patches = [(2, 3), (1, 2)], [], []
    for rows, columns in sizes:
        picture = generator.random((3, 2 * rows, 2 * columns))
        squares = picture.reshape(3, rows, 2, columns, 2).transpose(1, 3, 2, 4, 0).reshape(rows * columns, -1)
        pictures.append(picture)
        rows_of_patches.append(np.pad(squares, ((0, 6 - len(squares)), (0, 0))))
    inputs = {"pixel_values": torch.tensor(np.stack(rows_of_patches)), "spatial_shapes": torch.tensor(sizes)}
    layout = PaddedTiles()
    assert layout.grid(config, inputs) == (2, 2, 3)
    positions = layout.positions(SimpleNamespace(config=config), inputs).tolist()
    assert positions[:6] == [[0, row, column] for row in (0, 1) for column in (0, 1, 2)]
    assert positions[6:8] == [[1, 0, 0], [1, 0, 1]] and positions[8:] == [[-1, -1, -1]] * 4
    found = layout.tiles(config, inputs)
    np.testing.assert_allclose(found[0], pictures[0], atol=1e-6)
    np.testing.assert_allclose(found[1, :, :2, :4], pictures[1], atol=1e-6)
    assert not found[1, :, 2:].any() and not found[1, :, :, 4:].any()


def test_tokens_of_tiles_of_unlike_size_are_squares_of_their_own_patches():
    hf = SimpleNamespace(config=SimpleNamespace(downsample_factor=2))
    inputs = {"spatial_shapes": torch.tensor([[2, 4], [2, 2]])}
    values = np.arange(16.0).reshape(2, 2, 4, 1)
    assert pack_tiles(hf, values, inputs, newline=0.0)[:, 0].tolist() == [2.5, 4.5, 10.5]
    edges = [[[row / 2, column / 4, (row + 1) / 2, (column + 1) / 4] for column in range(4)] for row in range(2)]
    boxes = pack_tiles(hf, np.array([edges, edges]), inputs, newline=np.nan)
    np.testing.assert_allclose(boxes, [[0, 0, 1, 0.5], [0, 0.5, 1, 1], [0, 0, 1, 0.5]])
