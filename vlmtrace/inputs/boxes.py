"""A box of each clean image, shown as in the corrupt image or covered: does the answer hang on what is in there?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.images import open_image
from vlmtrace.core.paths import RAW
from vlmtrace.core.schema import IMAGE_LISTS, listed, validate_pairs
from vlmtrace.inputs.pictures import images_of, n_images
from vlmtrace.inputs.saved_images import save_images
from vlmtrace.inputs.units import with_units

#: What a box can be filled with.
FILLS = ("corrupt", "mean")


@checked
def fill_box(
    pairs: pd.DataFrame,
    box: tuple[float, float, float, float],
    fill: str = "corrupt",
    folder: str | Path | None = None,
) -> pd.DataFrame:
    """Fill one box of each clean image, the same of all.

    Args:
        pairs: a pairs table of one image a side, both of one size
        box: left, top, right and bottom, as shares of width and height (0 to 1)
        fill: "corrupt": what the corrupt image shows there; "mean": one color, the mean of the clean image
        folder: where the images are written; None: data/raw/boxes

    Returns:
        the pairs table with the filled images as its clean images. Each pair has the unit that it had

    Raises:
        VlmtraceError: the box is empty or not within the image, the fill is unknown, a pair's images have unlike sizes,
            a pair has several images a side, or the table breaks the contract

    Example:
        >>> import vlmtrace as vt
        >>> from vlmtrace.inputs import fill_box
        >>> pairs = vt.load_pairs("rendered_svo", n=4)
        >>> feet = fill_box(pairs, (0, 0.875, 1, 1), "mean")  # the lowest eighth of each clean image is covered
        >>> bool((feet["clean_image"] != pairs["clean_image"]).all())
        True
    """
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise VlmtraceError(
            f"box is {tuple(box)}: give left, top, right and bottom as shares of width and height, from 0 to 1, left "
            "before right and top before bottom."
        )
    one_of(fill, FILLS, "fill")
    pairs = with_units(validate_pairs(pairs))
    filled = [_filled(pair, box, fill) for pair in pairs.to_dict("records")]
    images: dict[str, list[Any]] = {"clean_image": filled}
    if IMAGE_LISTS["clean_image"] in pairs:  # lists may be of one image
        images[IMAGE_LISTS["clean_image"]] = [
            [image] if listed(own) else own
            for own, image in zip(pairs[IMAGE_LISTS["clean_image"]], filled, strict=True)
        ]
    columns = {name: pd.Series(cells, index=pairs.index, dtype=object) for name, cells in images.items()}
    return save_images(pairs.assign(**columns), folder or RAW / "boxes")


def _filled(pair: Mapping[str, Any], box: tuple[float, float, float, float], fill: str) -> Image.Image:
    if n_images(pair) > 1:
        raise VlmtraceError(
            f"Pair {pair['sample_id']}: its prompt asks about {n_images(pair)} images, and a box is one of a single "
            "image: fill boxes of pairs of one image a side."
        )
    clean, other = (
        np.asarray(open_image(images_of(pair, name)[0]).convert("RGB")) for name in ("clean_image", "corrupt_image")
    )
    if clean.shape != other.shape:
        raise VlmtraceError(
            f"Pair {pair['sample_id']}: its images have {_size(clean)} and {_size(other)} pixels: bring them to one "
            "size with same_size first."
        )
    height, width = clean.shape[:2]
    left, right = (round(share * width) for share in box[::2])
    top, bottom = (round(share * height) for share in box[1::2])
    pixels = clean.copy()
    inside = np.s_[top:bottom, left:right]
    pixels[inside] = other[inside] if fill == "corrupt" else clean.mean((0, 1)).round().astype(np.uint8)
    return Image.fromarray(pixels)


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]} × {pixels.shape[0]}"
