"""What a visitor opens in the app: bounded by bytes and pixels before it is decoded, in named formats only."""

import io
import os
import struct
import time
import tracemalloc
import zlib

import pytest
from fixtures.image_server import picture
from PIL import Image

from vlmtrace.app.ask import FORMATS, LARGEST_FILE, MOST_PIXELS, decode
from vlmtrace.core.errors import VlmtraceError


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, extra=b"", pixels=None):
    """A black-and-white PNG of few bytes, whatever its size."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * ((width + 7) // 8 + 1) * height, 9) if pixels is None else pixels
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def gif(frames, width=8, height=8):
    one = b"\x2c" + struct.pack("<HHHHB", 0, 0, 8, 8, 0) + b"\x02\x05\x84\x8f\xa9\xcb\x0d\x00"
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + one * frames + b"\x3b"


def saved(kind, size=(16, 16), **options):
    content = io.BytesIO()
    Image.new("RGB", size, "red").save(content, kind, **options)
    return content.getvalue()


MEGABYTES = zlib.compress(b"\0" * (200 << 20), 9)

#: Files of few bytes that become many, or that ask for much work.
BOMBS = {
    "16000 x 16000 pixels": png(16_000, 16_000),
    "5000 x 5000 pixels": png(5_000, 5_000),
    "a row of 2^31 pixels": png(2**31 - 1, 1, pixels=b""),
    "2^62 pixels": png(2**31 - 1, 2**31 - 1, pixels=b""),
    "a compressed text": png(8, 8, chunk(b"zTXt", b"a\0\0" + MEGABYTES)),
    "a compressed international text": png(8, 8, chunk(b"iTXt", b"a\0\1\0\0\0" + MEGABYTES)),
    "a compressed color profile": png(8, 8, chunk(b"iCCP", b"a\0\0" + MEGABYTES)),
    "a GIF of a large screen": gif(1, 65_000, 65_000),
    "a WebP of a large canvas": b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4
    + b"\xff\xff\xff\xff\xff\x7f",
    "a BMP of a large screen": b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
    + struct.pack("<IiiHHIIiiII", 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "a TIFF of a large screen": b"II*\0\x08\0\0\0" + struct.pack("<H", 3)
    + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((256, 60_000), (257, 60_000), (262, 1)))
    + b"\0" * 4,
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_file_of_few_bytes_that_becomes_many_is_refused_at_once(bomb):
    assert len(BOMBS[bomb]) < 2**20
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(VlmtraceError, match=r"pixels|cannot|that can be read"):
        decode(BOMBS[bomb])
    took, (_, most) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took < 1 and most < 100 * 2**20, f"{took:.1f} s, {most / 2**20:.0f} MB"


@pytest.mark.parametrize("name", ["GIF of 100,000 frames", "PNG with too much in it", "most pixels that are allowed"])
def test_what_is_read_is_read_in_bounded_time(name):
    content = {
        "GIF of 100,000 frames": gif(100_000),
        "PNG with too much in it": png(8, 8, pixels=MEGABYTES),
        "most pixels that are allowed": png(6_000, MOST_PIXELS // 6_000),
    }[name]
    assert len(content) < LARGEST_FILE
    started = time.process_time()
    try:
        assert decode(content).mode == "RGB"
    except VlmtraceError:
        assert name.startswith("GIF")
    assert time.process_time() - started < 2


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_the_named_formats_are_read(kind):
    assert decode(saved(kind)).size == (16, 16)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(owned) (w) file closefile\nshowpage\n"

#: Files that are no image, or are one only to a program that does what the file says.
OTHERS = {
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "HTML": b"<!doctype html><img src=x onerror=alert(1)>",
    "PostScript": EPS,
    "PDF": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n",
    "PostScript behind the head of a preview": struct.pack("<IIIIIIIH", 0xC6D3D0C5, 30, len(EPS), 0, 0, 0, 0, 0) + EPS,
    "script": b"#!/bin/sh\ntouch owned\n",
    "pickle": b"cos\nsystem\n(S'touch owned'\ntR.",
    "zip": b"PK\3\4" + b"\0" * 60,
    "ELF": b"\x7fELF" + b"\0" * 60,
    "ICO": saved("ICO"),
    "ICNS": saved("ICNS", (128, 128)),
    "PCX": saved("PCX"),
    "PPM": saved("PPM"),
    "JPEG 2000": saved("JPEG2000"),
    "page before a picture": b"<html>" + picture(),
    "nothing": b"",
    "a zero": b"\0",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_picture_is_refused_and_nothing_is_started(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for starts in ("popen", "system", "startfile"):
        monkeypatch.setattr(os, starts, lambda *_: pytest.fail("a program was started"), raising=False)
    monkeypatch.setattr("subprocess.Popen.__init__", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(VlmtraceError, match="not an image that can be read"):
        decode(OTHERS[kind])
    assert not list(tmp_path.iterdir())


def test_a_picture_with_a_page_behind_it_is_the_picture_alone():
    """What the browser gets is drawn anew from pixels; nothing else of the file goes on."""
    from vlmtrace.display.canvas import png as sent

    given = picture() + b"<script>alert(1)</script>"
    assert b"<script" not in sent(decode(given))
    with_text = png(8, 8, chunk(b"tEXt", b"Comment\0<script>alert(1)</script>"))
    assert b"<script" not in sent(decode(with_text))


@pytest.mark.parametrize("cut", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_a_file_cut_short_is_a_sentence(kind, cut):
    content = saved(kind, (64, 48))
    try:
        image = decode(content[: int(len(content) * cut)])
    except VlmtraceError as error:
        assert "choose a PNG or JPEG" in str(error) and "BytesIO" not in str(error)
    else:
        assert image.size == (64, 48), "what is read in spite of that has the size that the file says"


def test_too_many_bytes_are_refused_unread(monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(VlmtraceError, match="more than 6"):
        decode(b"\0" * (LARGEST_FILE + 1))
