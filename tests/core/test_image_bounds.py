"""Images are bounded before they are decoded, whatever their format."""

import io
import struct
import time

import pytest
from fixtures.drawn_images import drawing, saved
from fixtures.raw_data import bomb_png
from PIL import Image, PngImagePlugin

import vlmtrace as vt
from vlmtrace.core import images
from vlmtrace.core.images import MOST_PIXELS, open_image, open_mask
from vlmtrace.tasks.building.image_files import image_problem


def test_pixels_are_counted_before_they_are_decoded(tmp_path):
    for side in (16_000, 12_000, 60_000):
        start = time.monotonic()
        with pytest.raises(vt.VlmtraceError, match=r"has .* pixels, more than 120,000,000: save it smaller"):
            open_image(bomb_png(tmp_path / "bomb.png", side))
        with pytest.raises(vt.VlmtraceError, match=r"^The mask .* has .* pixels, more than 120,000,000"):
            open_mask(tmp_path / "bomb.png")
        assert image_problem(tmp_path / "bomb.png").startswith("the image has ")
        assert time.monotonic() - start < 1, f"a bomb of {side} × {side} pixels took long"


def promised(kind, width=16_000, height=16_000):
    """A small file of a format whose header promises many pixels."""
    if kind == "HEIF":
        assert images.heic_is_read()
    content = bytearray(saved(Image.new("RGB", (64, 64), "red"), kind))

    def put(at, form):
        content[at : at + struct.calcsize(form)] = struct.pack(form, width, height)

    match kind:
        case "GIF":
            put(6, "<HH")
        case "BMP":
            put(18, "<ii")
        case "JPEG":
            put(content.index(b"\xff\xc0") + 5, ">HH")
        case "PPM":
            content = content.replace(b"64 64", f"{width} {height}".encode(), 1)
        case "TGA":
            put(12, "<HH")
        case "QOI":
            put(4, ">II")
        case "JPEG2000":
            put(content.index(b"ihdr") + 4, ">II")
        case "HEIF" | "AVIF":
            put(content.index(b"ispe") + 8, ">II")
        case "TIFF":
            for tag in (256, 257):  # width and height, each (tag, type LONG, count 1, value)
                at = content.index(struct.pack("<HHI", tag, 4, 1))
                content[at + 8 : at + 12] = struct.pack("<I", width)
    return io.BytesIO(content)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "JPEG", "PPM", "TGA", "QOI", "JPEG2000", "HEIF", "AVIF", "TIFF"])
def test_no_format_hides_its_size(kind):
    start = time.monotonic()
    with pytest.raises(vt.VlmtraceError, match=r"^The image has .* pixels, more than 120,000,000: save it smaller"):
        open_image(promised(kind))
    assert time.monotonic() - start < 1, f"{kind} was decoded"


def test_an_image_in_memory_is_bounded_too(monkeypatch):
    monkeypatch.setattr(images, "MOST_PIXELS", 99)
    with pytest.raises(vt.VlmtraceError, match="The image has 10 × 10 pixels, more than 99"):
        open_image(Image.new("RGB", (10, 10)))
    assert open_image(Image.new("RGB", (9, 11))).size == (9, 11)


def test_the_largest_telephone_is_read():
    assert MOST_PIXELS >= 12_000 * 9_000, "108 million pixels are what a telephone takes"


def test_a_text_that_unpacks_to_gigabytes_is_refused(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * (2 * PngImagePlugin.MAX_TEXT_CHUNK), zip=True)
    drawing().save(tmp_path / "text.png", pnginfo=info)
    with pytest.raises(vt.VlmtraceError, match=r"text\.png cannot be read \(Decompressed data too large"):
        open_image(tmp_path / "text.png")


def test_an_image_without_pixels_is_refused():
    with pytest.raises(vt.VlmtraceError, match="The image has no pixels"):
        open_image(Image.new("RGB", (0, 5)))


def test_a_side_that_is_too_long_is_refused_before_decoding(tmp_path):
    Image.new("L", (1, 70_000)).save(tmp_path / "strip.png")
    with pytest.raises(vt.VlmtraceError, match=r"has 1 × 70000 pixels, more than 65,535 on a side: save it smaller"):
        open_image(tmp_path / "strip.png")
