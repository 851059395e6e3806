"""How much of a position a mask covers, in photographs too."""

import sys
import time

import numpy as np
import pytest
from PIL import Image

from vlmtrace.inputs.image_regions import coverage


def grid(rows: int, columns: int) -> np.ndarray:
    row, column = (index.ravel() for index in np.indices((rows, columns)))
    return np.stack([row / rows, column / columns, (row + 1) / rows, (column + 1) / columns], axis=1)


def test_half_a_position_is_half_of_it_whatever_its_size():
    """A position belongs to the object that covers half of it: rounding must not decide that."""
    for size in range(2, 60, 2):
        half = np.zeros((3 * size, 7 * size), np.uint8)
        half[:, : size // 2] = 255
        assert coverage(Image.fromarray(half), grid(3, 7))[0] == 0.5, size


@pytest.mark.parametrize("rows_at_once", [512, 7])
def test_coverage_is_that_of_blocks_of_pixels(monkeypatch, rows_at_once):
    # By its full name: the room has a function of the module's name.
    monkeypatch.setattr(sys.modules["vlmtrace.inputs.image_regions"], "PIXEL_ROWS", rows_at_once)
    inside = np.random.default_rng(0).random((500, 700)) > 0.5
    blocks = inside.reshape(10, 50, 14, 50).mean((1, 3)).ravel()
    assert coverage(Image.fromarray(np.where(inside, 255, 0).astype(np.uint8)), grid(10, 14)) == pytest.approx(
        blocks, abs=1e-11
    )


def test_coverage_takes_products_of_matrices():
    """Step by step, over every position and pixel, it takes twenty times as long."""
    inside, boxes = np.random.default_rng(0).random((500, 700)) > 0.5, np.tile(grid(10, 14), (5, 1))
    mask, sides = Image.fromarray(np.where(inside, 255, 0).astype(np.uint8)), [np.ones((700, n)) for n in (500, 700)]
    started = time.process_time()
    coverage(mask, boxes)
    taken = time.process_time() - started
    started = time.process_time()
    np.einsum("nh,hw,nw->n", sides[0], inside, sides[1])
    assert taken < (time.process_time() - started) / 2
