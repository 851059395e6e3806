"""Masks of every kind mark what they are meant to mark, or are refused."""

import numpy as np
import pytest
from fixtures.drawn_images import exif
from PIL import Image, ImageOps

import vlmtrace as vt
from vlmtrace.core.images import open_mask


def marked(mask, **options):
    return (np.asarray(open_mask(mask, **options)) > 0).astype(int).tolist()


def gray(values, kind=np.uint8):
    return Image.fromarray(np.array([values], dtype=kind))


def palette(values, colors):
    image = gray(values).convert("P")
    image.putpalette([channel for color in colors for channel in color])
    return image


MASKS = {
    "white on black": (gray([0, 255, 255]), [0, 1, 1]),
    "soft edges": (gray([0, 100, 200]), [0, 0, 1]),
    "0 and 1": (gray([0, 1, 1]), [0, 1, 1]),
    "0 and a class": (gray([0, 17, 0]), [0, 1, 0]),
    "nothing": (gray([0, 0, 0]), [0, 0, 0]),
    "everything": (gray([255, 255, 255]), [1, 1, 1]),
    "two colors": (Image.frombytes("1", (3, 1), bytes([0b01000000])), [0, 1, 0]),
    "16 bits": (gray([0, 65535, 30000], np.uint16), [0, 1, 0]),
    "0 and 255 in 16 bits": (gray([0, 255, 255], np.uint16), [0, 1, 1]),
    "0 and 1 in 32 bits": (gray([0, 1, 0], np.int32), [0, 1, 0]),
    "floating point": (gray([0, 0.4, 0.9], np.float32), [0, 0, 1]),
    "red on black": (Image.fromarray(np.array([[[0, 0, 0], [255, 0, 0]]], np.uint8)), [0, 1]),
    "palette, as of Pascal VOC": (palette([0, 1, 8], [(0, 0, 0)] + [(128, 0, 0)] * 7 + [(64, 0, 0)]), [0, 1, 1]),
    "palette that counts": (palette([0, 1, 0], [(i, i, i) for i in range(256)]), [0, 1, 0]),
    "opaque object": (Image.fromarray(np.array([[[9, 9, 9, 0], [9, 9, 9, 255]]], np.uint8)), [0, 1]),
    "hidden white": (Image.fromarray(np.array([[[255, 255, 255, 0], [255, 255, 255, 255]]], np.uint8)), [0, 1]),
    "alpha that says nothing": (Image.fromarray(np.array([[[0, 0, 0, 255], [255] * 4]], np.uint8)), [0, 1]),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_every_kind(tmp_path, name):
    mask, expected = MASKS[name]
    assert marked(mask) == [expected]
    ending = "tif" if mask.mode in ("F", "I") else "png"
    mask.save(tmp_path / f"mask.{ending}")
    assert marked(tmp_path / f"mask.{ending}") == [expected]


def test_a_mask_that_marks_nothing_for_sure_is_refused(tmp_path):
    gray([0, 1, 2, 3, 17, 18]).save(tmp_path / "labels.png")
    with pytest.raises(vt.VlmtraceError, match=r"labels\.png holds the grays 0, 1, 2, 3, …, none of them bright: save"):
        open_mask(tmp_path / "labels.png")
    with pytest.raises(vt.VlmtraceError, match="The mask of pair 'a' is wholly transparent"):
        open_mask(Image.new("RGBA", (4, 4), (255, 255, 255, 0)), owner="pair 'a'")


def test_a_mask_is_turned_and_fits_the_upright_image(tmp_path):
    lying = Image.new("L", (80, 40))
    lying.paste(255, (0, 0, 20, 20))
    lying.save(tmp_path / "mask.png", exif=exif(6))
    assert np.array_equal(
        open_mask(tmp_path / "mask.png", size=(40, 80)), ImageOps.exif_transpose(Image.open(tmp_path / "mask.png"))
    )
    lying.save(tmp_path / "flat.png")
    said = r"flat\.png of pair 'a' is 80 × 40 pixels and its image 40 × 80: both .* \(it fits the image as it"
    with pytest.raises(vt.VlmtraceError, match=said):
        open_mask(tmp_path / "flat.png", size=(40, 80), owner="pair 'a'")
    with pytest.raises(vt.VlmtraceError, match=r"80 × 40 pixels and its image 7 × 8: both .* same size\.$"):
        open_mask(tmp_path / "flat.png", size=(7, 8))
