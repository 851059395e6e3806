"""Image files of every kind, whole and damaged, against what numpy makes of the same pixels."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image
from torture.outcome import Case

from vlmtrace.core.images import open_image

#: File format → modes that it holds, whether it keeps pixels exactly.
FORMATS: dict[str, tuple[tuple[str, ...], bool]] = {
    ".png": (("RGB", "RGBA", "L", "LA", "P", "1", "I;16"), True),
    ".tif": (("RGB", "RGBA", "L", "I;16", "F", "CMYK"), True),
    ".bmp": (("RGB", "L", "1"), True),
    ".gif": (("P", "L"), True),
    ".webp": (("RGB", "RGBA"), False),
    ".jpg": (("RGB", "L", "CMYK"), False),
    ".ppm": (("RGB", "L"), True),
    ".avif": (("RGB",), False),
    ".jp2": (("RGB",), True),
}

#: EXIF orientation → what a viewer does with the stored pixels (rows, columns, channels).
TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}

DAMAGES = ("none", "none", "none", "cut", "bytes", "empty", "text", "other ending", "appended")


class PictureCases:
    """Cases about `open_image`.

    Args:
        folder: where to write the files
    """

    kind = "image"

    def __init__(self, folder: Path):
        self.folder = folder
        self.number = itertools.count()

    def cases(self) -> st.SearchStrategy[Case]:
        """Draw a case."""
        return st.composite(self._case)()

    def _case(self, draw: Any) -> Case:
        suffix = draw(st.sampled_from(list(FORMATS)))
        modes, exact = FORMATS[suffix]
        mode = draw(st.sampled_from(modes))
        height, width = draw(st.integers(16, 48)), draw(st.integers(16, 48))
        generator = np.random.default_rng(draw(st.integers(0, 99)))
        picture, shown = made(generator, mode, height, width)
        orientation = draw(st.sampled_from((1, 1, 3, 6, 8, 5, 2, 0, 77)))
        exif = Image.Exif()
        exif[0x0112] = orientation
        kept = suffix in (".jpg", ".png", ".webp", ".avif")
        damage = draw(st.sampled_from(DAMAGES))
        path = self.folder / f"{next(self.number)}{'.png' if damage == 'other ending' else suffix}"
        picture.save(path, format=Image.registered_extensions()[suffix], **({"exif": exif.tobytes()} if kept else {}))
        path.write_bytes(_damaged(draw, path.read_bytes(), damage))
        expected = TURNED.get(orientation, TURNED[1])(shown) if kept else shown

        def act() -> Any:
            try:
                return open_image(path)
            finally:
                path.unlink()

        def check(image: Any) -> str | None:
            return wrong(image, expected, exact and mode != "CMYK", damage in ("cut", "bytes"))

        said = f"{mode} {width}×{height} as {suffix}, EXIF orientation {orientation if kept else 'none'}, {damage}"
        return Case(said, act, check, damage in ("none", "other ending", "appended"))


def made(generator: np.random.Generator, mode: str, height: int, width: int) -> tuple[Image.Image, np.ndarray]:
    """A smooth picture in a mode, and the RGB pixels that a viewer shows on white."""
    corners = generator.integers(0, 256, (2, 2, 3)).astype(float)
    down, across = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    rgb = (1 - down) * ((1 - across) * corners[0, 0] + across * corners[0, 1])
    rgb = np.rint(rgb + down * ((1 - across) * corners[1, 0] + across * corners[1, 1])).astype(np.uint8)
    alpha = (np.add.outer(np.arange(height), np.arange(width)) % 32 * 8).astype(np.uint8)
    gray = rgb[..., 0]
    on_white = lambda color: np.rint(color * (alpha / 255)[..., None] + 255 * (1 - alpha / 255)[..., None])  # noqa: E731
    as_rgb = lambda values: np.repeat(np.asarray(values)[..., None], 3, axis=2)  # noqa: E731
    if mode == "RGB":
        return Image.fromarray(rgb), rgb
    if mode == "RGBA":
        return Image.fromarray(np.dstack([rgb, alpha])), on_white(rgb)
    if mode == "L":
        return Image.fromarray(gray), as_rgb(gray)
    if mode == "LA":
        return Image.fromarray(np.dstack([gray, alpha])), on_white(as_rgb(gray))
    if mode == "1":
        dark = gray > 127
        return Image.fromarray(dark), as_rgb(dark * 255)
    if mode == "I;16":
        deep = gray.astype(np.uint16) * 257
        return Image.fromarray(deep), as_rgb(gray)
    if mode == "F":
        return Image.fromarray(gray.astype(np.float32) / 255), as_rgb(gray)
    if mode == "P":
        few = Image.fromarray(rgb).quantize(16)
        return few, np.asarray(few.convert("RGB"))
    cmyk = Image.fromarray(rgb).convert("CMYK")
    return cmyk, rgb


def wrong(image: Any, expected: np.ndarray, exact: bool, damaged: bool) -> str | None:
    """Why an image is not what was saved."""
    if image.mode != "RGB":
        return f"its mode is {image.mode}"
    got = np.asarray(image).astype(float)
    if got.shape != expected.shape:
        # What a damaged header says is what a viewer shows, too.
        return None if damaged else f"its shape is {got.shape}, not {expected.shape}"
    if damaged:
        return None
    apart = np.abs(got - expected)
    limit = (1.0, 2.0) if exact else (12.0, 120.0)
    if apart.mean() > limit[0] or apart.max() > limit[1]:
        return f"pixels differ by {apart.mean():.1f} on average, by {apart.max():.0f} at most"
    return None


def _damaged(draw: Any, content: bytes, damage: str) -> bytes:
    if damage == "cut":
        return content[: draw(st.integers(0, len(content) - 1))]
    if damage == "bytes":
        place = draw(st.integers(0, len(content) - 1))
        new = draw(st.binary(min_size=1, max_size=8))
        return content[:place] + new + content[place + len(new) :]
    if damage == "appended":
        return content + draw(st.binary(max_size=40))
    return {"empty": b"", "text": b"<html>404 Not Found</html>"}.get(damage, content)
