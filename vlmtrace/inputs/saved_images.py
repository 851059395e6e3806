"""Images that are in memory, written to files: tables hold paths, so that what was computed can be looked at again."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from vlmtrace.core.arguments import checked
from vlmtrace.core.arguments.kinds import is_array
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.images import open_image, open_mask
from vlmtrace.inputs.same_size import _written as written_image


@checked
def save_images(table: pd.DataFrame, folder: str | Path) -> pd.DataFrame:
    """Write the images that a table holds in memory to files, and put their paths in their place.

    Args:
        table: of pairs or questions, whose columns of images and masks hold images (PIL), arrays of pixels, or files as
            Hugging Face's datasets give them (`{"bytes": …}`), alone or in lists; cells that hold paths stay as
            they are
        folder: where the images are written as PNG, each under a name that tells its content

    Returns:
        the table with paths, and else as it was

    Raises:
        VlmtraceError: an image or an array is none that can be read, or the folder cannot be written to; the sentence
            names column and row

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> import pandas as pd
        >>> import vlmtrace as vt
        >>> rows = {"sample_id": ["a"], "image": [np.zeros((8, 8, 3), dtype=np.uint8)], "prompt": ["What is this?"]}
        >>> vt.save_images(pd.DataFrame(rows), tempfile.mkdtemp())["image"].str.endswith(".png").tolist()
        [True]
    """
    return table.assign(
        **{
            str(column): [_saved(cell, str(column), row, folder) for row, cell in enumerate(values)]
            for column, values in table.items()
            if any(map(_holds_pixels, values))
        }
    )


def _is_list(cell: Any) -> bool:
    """Whether a cell holds several things; a list of paths is an array where it was read from a file."""
    return isinstance(cell, list | tuple) or (isinstance(cell, np.ndarray) and cell.dtype.kind not in "biuf")


def _holds_pixels(cell: Any) -> bool:
    if _is_list(cell):
        return any(map(_holds_pixels, cell))
    return isinstance(cell, Image.Image) or is_array(cell) or _is_file(cell)


def _is_file(cell: Any) -> bool:
    """Whether a cell holds an image's file, as a table does that Hugging Face's datasets made."""
    return isinstance(cell, Mapping) and isinstance(cell.get("bytes"), bytes)


def _saved(cell: Any, column: str, row: int, folder: str | Path) -> Any:
    if _is_list(cell):
        return [_saved(part, column, row, folder) for part in cell]
    if not _holds_pixels(cell):
        return cell
    try:
        source = io.BytesIO(cell["bytes"]) if _is_file(cell) else cell
        image = open_mask(source) if column.endswith(("_mask", "_masks")) else open_image(source)
    except VlmtraceError as error:
        raise VlmtraceError(f"Column {column!r}, row {row}: {error}") from error
    return written_image(image, folder)
