"""Images from files."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.paths import resolve


def open_image(image: Image.Image | str | Path) -> Image.Image:
    """Read an image whole, so that a truncated file fails here and not later.

    Args:
        image: an image, or the path of one, relative to the repository or absolute

    Returns:
        the image in RGB

    Raises:
        VlmtraceError: the file is missing, truncated or not an image
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    path = resolve(image)
    if not path.is_file():
        raise VlmtraceError(f"The image {path} does not exist: correct its path in the pairs table.")
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VlmtraceError(
            f"The image {path} cannot be read ({error}): replace it or remove its row from the pairs table."
        ) from error
