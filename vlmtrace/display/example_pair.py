"""The columns of a pairs table that an example is made of: completed, as a table of one row, and named in code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import IMAGE_LISTS, listed, place_of
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.inputs.pictures import are_same, images_of, n_images
from vlmtrace.models.several_images import opened

#: Columns of a pairs table by which an example is named in code.
COLUMNS = (
    "sample_id clean_image corrupt_image clean_prompt corrupt_prompt correct_answer incorrect_answer "
    "clean_object_mask clean_distractor_mask noun clean_images corrupt_images clean_object_masks clean_distractor_masks"
).split()


def complete_pair(given: Mapping[str, Any] | pd.Series) -> dict[str, Any]:
    """The columns that have a value, with a name, and with the lists of several images as `complete_lists` has them.

    Args:
        given: columns of a pairs table
    """
    pair = {str(key): value for key, value in dict(given).items() if not _is_missing(value)}
    return complete_lists({"sample_id": "own", **pair})


def complete_lists(pair: Mapping[str, Any]) -> dict[str, Any]:
    """A pair, where several images are listed with the one that differs, and the corrupt list that it alone makes.

    Args:
        pair: columns of a pairs table
    """
    found = dict(pair)
    lists = {column: listed(found.get(name)) for column, name in IMAGE_LISTS.items()}
    clean, corrupt = lists["clean_image"], lists["corrupt_image"]
    if clean is None:
        return found
    other = found.get("corrupt_image")
    if corrupt is None and other is not None and len(clean) > 1:
        place = place_of(found.get("clean_image"), clean) or 0
        found["corrupt_images"] = corrupt = [other if i == place else one for i, one in enumerate(clean)]
    both = zip(clean, corrupt or clean, strict=False)
    changed = next((i for i, (a, b) in enumerate(both) if place_of(a, [b]) is None), 0)
    for column, images in (("clean_image", clean), ("corrupt_image", corrupt)):
        if images is not None and changed < len(images):
            found.setdefault(column, images[changed])
    return found


def corruptions_of(pair: Mapping[str, Any]) -> list[str]:
    """The corruptions that a pair has a corrupt run of: a second image or question that is not the first.

    Args:
        pair: completed columns of a pairs table
    """
    columns = {"image": "corrupt_image", "text": "corrupt_prompt"}
    given = [name for name in CORRUPTIONS if pair.get(columns[name]) is not None]
    if "text" in given and pair["corrupt_prompt"] == str(pair["clean_prompt"]):
        given.remove("text")
    if "image" in given:
        try:
            pictures = [opened(images_of(pair, column)) for column in ("clean_image", "corrupt_image")]
        except VlmtraceError:
            return given  # what is wrong with an image is said where it is shown
        if are_same(*pictures):
            given.remove("image")
    return given


def as_frame(pair: Mapping[str, Any]) -> pd.DataFrame:
    """A pair as a pairs table of one row; what is not corrupted stays as in the clean run.

    Args:
        pair: completed columns of a pairs table
    """
    row = {"corrupt_image": pair["clean_image"], "corrupt_prompt": str(pair["clean_prompt"]), **pair}
    if "clean_images" in row:
        row.setdefault("corrupt_images", row["clean_images"])
    return pd.DataFrame([row])


def images_in_code(pair: Mapping[str, Any]) -> str:
    """How code names what the clean run sees: the image of `pair`, or the list of several.

    Args:
        pair: completed columns of a pairs table
    """
    return 'pair["clean_images"]' if n_images(pair) > 1 else 'pair["clean_image"]'


def _is_missing(value: Any) -> bool:
    return value is None or (np.isscalar(value) and bool(pd.isna(value)))
