"""An image, or several of one prompt: how they are given, and opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.images import open_image

#: The images of one prompt: one, or several in order.
Images = Image.Image | str | Path | Sequence[Image.Image | str | Path]


def as_list(images: Images) -> list[Image.Image | str | Path]:
    """The images of one prompt as a list.

    Args:
        images: an image or its path, or a list or tuple of them

    Returns:
        in order, one at least

    Raises:
        VlmtraceError: the list is empty

    >>> as_list("a.png"), as_list(["a.png", "b.png"])
    (['a.png'], ['a.png', 'b.png'])
    """
    if not isinstance(images, list | tuple):
        return [images]  # type: ignore[list-item]
    if not images:
        raise VlmtraceError("A prompt is given an empty list of images: give one image at least.")
    return list(images)


def opened(images: Images) -> list[Image.Image]:
    """The images of one prompt, read.

    Args:
        images: an image or its path, or a list or tuple of them

    Returns:
        in order, one at least

    Raises:
        VlmtraceError: the list is empty, or an image cannot be read
    """
    return [open_image(image) for image in as_list(images)]


def check_batch(images: Sequence[Images], prompts: Sequence[str]) -> None:
    """Check that a batch has a prompt, and that each has its image.

    Args:
        images: for each prompt its image, or a list of its images
        prompts: as many

    Raises:
        VlmtraceError: there is none, or images and prompts are not equally many
    """
    if not len(prompts) and not len(images):
        raise VlmtraceError("There is nothing to encode: give one prompt at least, and its image.")
    if len(prompts) != len(images):
        given = "1 image is" if len(images) == 1 else f"{len(images)} images are"
        asked = "1 prompt" if len(prompts) == 1 else f"{len(prompts)} prompts"
        raise VlmtraceError(
            f"{given} given for {asked}: give each prompt its image, or the list of its images where it asks about "
            "several."
        )


def sizes_of(images: Images) -> list[tuple[int, int]]:
    """Width and height in pixels of the images of one prompt, in order."""
    return [image.size for image in opened(images)]
