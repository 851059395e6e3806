"""Columns that list the images of a prompt, and what must hold between them and the columns of single images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.core.errors import VlmtraceError

#: Column of the one image of a run → column that lists its images where a prompt asks about several.
IMAGE_LISTS = {"clean_image": "clean_images", "corrupt_image": "corrupt_images"}

#: Column of a mask of `clean_image` → column that lists the masks of several images.
MASK_LISTS = {"clean_object_mask": "clean_object_masks", "clean_distractor_mask": "clean_distractor_masks"}


def listed(value: Any) -> list[Any] | None:
    """What a cell lists; None: it holds no list.

    Args:
        value: of a column such as clean_images; read from a file it may be an array

    >>> listed(["a.png", "b.png"]), listed("a.png"), listed(float("nan"))
    (['a.png', 'b.png'], None, None)
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple) and len(value) else None


def list_problem(pair: Mapping[str, Any]) -> str | None:
    """What is wrong with the lists of a pair's images and masks.

    Args:
        pair: a row of a pairs table

    Returns:
        a sentence; None: nothing is, or it has no lists

    >>> list_problem({"clean_image": "a", "corrupt_image": "b", "clean_images": ["a", "c"], "corrupt_images": ["b"]})
    'clean_images lists 2 images and corrupt_images 1: list as many in both.'
    """
    lists = {column: listed(pair.get(name)) for column, name in IMAGE_LISTS.items()}
    if not any(lists.values()):
        return next(
            (
                f"{name} lists {len(masks)} masks, and clean_images no images: list them, or name the one mask in "
                f"{column}."
                for column, name in MASK_LISTS.items()
                if (masks := listed(pair.get(name))) is not None and len(masks) > 1
            ),
            None,
        )
    for column, images in lists.items():
        if images is not None and not all(map(_is_given, images)):
            name = IMAGE_LISTS[column]
            return f"{name} lists {len(images)} images, of which one is empty: name each, or leave its place out."
    # Where one run lists a single image, the other need not list its own.
    single = max(len(images or ()) for images in lists.values()) == 1
    clean, corrupt = (
        [pair[column]] if single and images is None and _is_given(pair.get(column)) else images or []
        for column, images in lists.items()
    )
    if len(clean) != len(corrupt):
        return f"clean_images lists {len(clean)} images and corrupt_images {len(corrupt)}: list as many in both."
    changed = _changed(pair, clean, corrupt)
    for column, found in (("clean_image", clean), ("corrupt_image", corrupt)):
        if not _same(pair.get(column), found[changed]):
            if listed(pair.get(IMAGE_LISTS[column])) is None:
                continue
            which = "the first of those that differ between the runs"
            return f"{column} is not image {changed + 1} of {IMAGE_LISTS[column]}, {which}: name that image there."
    for name in MASK_LISTS.values():
        masks = listed(pair.get(name))
        if masks is not None and len(masks) != len(clean):
            return (
                f"{name} lists {len(masks)} masks of {len(clean)} images: list one for each, None where there is none."
            )
    return None


def changed_place(pair: Mapping[str, Any]) -> int:
    """Which of several images `clean_image` and `corrupt_image` name, counted from 0.

    Args:
        pair: a row of a pairs table

    Returns:
        the place of the first image that differs between the runs: one path may stand in a list twice, and differ in
        one place. Where none differs, or one run lists no images, the place of `clean_image`

    >>> changed_place({"clean_image": "a", "clean_images": ["a", "a"], "corrupt_images": ["a", "b"]})
    1
    """
    clean, corrupt = (listed(pair.get(name)) or [] for name in IMAGE_LISTS.values())
    return _changed(pair, clean or [pair.get("clean_image")], corrupt)


def _changed(pair: Mapping[str, Any], clean: Sequence[Any], corrupt: Sequence[Any]) -> int:
    both = zip(clean, corrupt, strict=False)
    differing = (i for i, (a, b) in enumerate(both) if not _same(a, b))
    named = place_of(pair.get("clean_image"), clean)
    return next(differing, named or 0)


def place_of(image: Any, images: Sequence[Any]) -> int | None:
    """Where an image stands in a list; None: nowhere.

    Args:
        image: its path, or what is in memory
        images: paths, or what is in memory

    >>> place_of("b.png", ["a.png", "b.png"])
    1
    """
    return next((i for i, other in enumerate(images) if _same(image, other)), None)


def _is_given(image: Any) -> bool:
    """Whether a cell names or holds an image."""
    missing = image is None or (isinstance(image, float) and image != image)
    return not (missing or (isinstance(image, str) and not image.strip()))


def _same(first: Any, second: Any) -> bool:
    return first is second or (isinstance(first, str) and isinstance(second, str) and first == second)


def check_single_columns(pairs: pd.DataFrame) -> None:
    """Check that a pairs table that lists images has the columns of single images, too.

    Args:
        pairs: a pairs table

    Raises:
        VlmtraceError: it has not
    """
    for column, name in IMAGE_LISTS.items():
        if name in pairs and column not in pairs:
            raise VlmtraceError(
                f"The pairs table has {name!r} and no column {column!r}: name in it the first image of the list that "
                "differs between the runs."
            )


def check_image_lists(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return a pairs table whose lists of images agree with each other and with the columns of single images.

    Args:
        pairs: a pairs table

    Returns:
        the same table

    Raises:
        VlmtraceError: they do not; the sentence names the pair
    """
    if any(name in pairs for name in (*IMAGE_LISTS.values(), *MASK_LISTS.values())):
        for pair in pairs.to_dict("records"):
            problem = list_problem(pair)
            if problem:
                raise VlmtraceError(f"Pair {pair.get('sample_id')!r}: {problem}")
    return pairs
