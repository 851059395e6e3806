"""Pairs of photographs: the corrupt image in the size of the clean one, where a model could not patch them otherwise.

Models that take images at their own size (Qwen, LLaVA-NeXT, InternVL, …) make another sequence of an image of another
shape, and such a pair cannot be patched position by position (see `vlmtrace.inputs.alignment`). What is done about it
is what the model's processor does to every image anyway: it is resampled, with the processor's own filter. An image of
another shape is stretched by it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import write_atomically
from vlmtrace.core.images import open_mask
from vlmtrace.core.paths import relative, resolve
from vlmtrace.core.progress import progress
from vlmtrace.core.schema import IMAGE_LISTS, changed_place, listed, validate_pairs
from vlmtrace.inputs.alignment import is_aligned
from vlmtrace.inputs.pictures import images_of
from vlmtrace.inputs.units import with_units
from vlmtrace.models import VLM
from vlmtrace.models.several_images import opened


@checked
def same_size(model: VLM, pairs: pd.DataFrame, folder: str | Path) -> pd.DataFrame:
    """Bring both images of each pair to one size, where the model could not patch them position by position otherwise.

    The corrupt image is resampled to the clean image's size with the filter of the model's processor, and written as a
    PNG, so that all that follows reads files, and what the model saw can be looked at. Its masks go with it. Pairs
    whose images are aligned as they are stay untouched, and so do those that cannot be used at all: `check_pairs` says
    why. Which pairs are independent is told by the images as they were.

    Args:
        model: its processor decides what is aligned
        pairs: a pairs table
        folder: where the images are written, each under a name that tells its content

    Returns:
        the table with the new paths in corrupt_image, corrupt_images and columns corrupt_…_mask; and with the column
        unit

    Raises:
        VlmtraceError: the table lacks a column, repeats a sample_id or has no row, or the folder cannot be written to

    Example:
        >>> import tempfile
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=4)
        >>> same = vt.same_size(model, pairs, tempfile.mkdtemp())
        >>> same["corrupt_image"].equals(pairs["corrupt_image"])  # they were of one size
        True
    """
    # A resampled image is another file than the one that other pairs share.
    pairs = with_units(validate_pairs(pairs))
    masks = [column for column in pairs if str(column).startswith("corrupt_") and str(column).endswith("_mask")]
    resample = getattr(model.processor.image_processor, "resample", None)
    resample = Image.Resampling.BICUBIC if resample is None else Image.Resampling(int(resample))
    rows = pairs.to_dict("records")
    for row in progress(rows, f"sizes of {len(rows)} pairs"):
        try:
            clean, corrupt = (opened(images_of(row, column)) for column in ("clean_image", "corrupt_image"))
            model.check_n_images(len(clean))
        except VlmtraceError:
            continue  # check_pairs sets it aside, with the reason
        sizes = [image.size for image in clean]
        if all(is_aligned(model, size, image.size, len(clean)) for size, image in zip(sizes, corrupt, strict=True)):
            continue
        changed = changed_place(row)
        _bring_all(row, sizes, corrupt, changed, resample, folder)
        if corrupt[changed].size != sizes[changed]:
            for column in masks:
                row[column] = _resized_mask(row[column], corrupt[changed].size, sizes[changed], folder)
    lists = [name for name in IMAGE_LISTS.values() if name in pairs]
    columns = {column: [row[column] for row in rows] for column in ("corrupt_image", *masks, *lists)}
    return pairs.assign(**columns)


def _bring_all(
    row: dict[str, Any],
    sizes: list[tuple[int, int]],
    corrupt: list[Image.Image],
    changed: int,
    resample: Image.Resampling,
    folder: str | Path,
) -> None:
    """Bring those of a row's corrupt images that differ in size from the clean ones to their sizes."""
    brought = [
        path if image.size == size else _written(image.resize(size, resample), folder)
        for path, image, size in zip(images_of(row, "corrupt_image"), corrupt, sizes, strict=True)
    ]
    row["corrupt_image"] = brought[changed]
    if listed(row.get("corrupt_images")):  # a list may be of one image
        row["corrupt_images"] = brought


def _resized_mask(path: Any, own: tuple[int, int], size: tuple[int, int], folder: str | Path) -> Any:
    """A mask in another size; one that cannot be read, or was not of its image's size, is left as it is."""
    if not isinstance(path, str):
        return path
    try:
        mask = open_mask(path, own)
    except VlmtraceError:
        return path
    return _written(mask.resize(size, Image.Resampling.NEAREST), folder)


def _written(image: Image.Image, folder: str | Path) -> str:
    """The path, as tables hold it, of the PNG that holds an image; an equal image is written once."""
    content = f"{image.mode} {image.size}".encode() + image.tobytes()
    path = resolve(folder) / f"{hashlib.sha256(content).hexdigest()[:20]}.png"
    if not path.is_file():
        with write_atomically(path) as temporary:
            image.save(temporary)
    return relative(path)
