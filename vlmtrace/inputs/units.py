"""Which pairs of a table are independent of each other.

Two pairs that share an image, or are the two directions of one comparison, are no two observations: what a head does to
one of them it tends to do to the other. A *unit* is a set of pairs that hang together in this way; splits, tests and
intervals go by units.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from vlmtrace.core.arguments import checked
from vlmtrace.core.files import content_of
from vlmtrace.core.paths import find
from vlmtrace.core.schema import IMAGE_LISTS, UNIT, check_columns, listed


@checked
def with_units(pairs: pd.DataFrame) -> pd.DataFrame:
    """The table with the column unit; a unit that it says stays, and the pairs that are joined to it get it, too.

    The unit of a pair is the connected component to which it belongs where pairs that share an image, clean or corrupt,
    are joined; of several images, any of them. Images are compared by the contents of their files, so a copy under
    another name is the same image.

    Args:
        pairs: a pairs table, or one that came of it, or a table of questions, whose units are those of one image

    Returns:
        a table of the same rows; a unit that is computed has the name of its first sample_id in the table. Where the
        table has no columns of images, nothing can be shared, and each pair is a unit

    Raises:
        VlmtraceError: the column sample_id is missing
    """
    check_columns(pairs, ["sample_id"], "pairs")
    if UNIT in pairs and _given(pairs[UNIT]).all():
        return pairs
    if not {"clean_image", "corrupt_image"} <= set(pairs):
        if "image" not in pairs:
            return pairs.assign(**{UNIT: pairs["sample_id"]})
        return pairs.assign(**{UNIT: _names(pairs, pairs["image"].map(_image).to_numpy())})
    rows = [_images_of(pair) for pair in pairs.to_dict("records")]
    owners = np.repeat(np.arange(len(rows)), [len(row) for row in rows])  # (image,): the pair that shows it
    nodes = pd.factorize(np.array([_image(image) for row in rows for image in row], dtype=object))[0]
    n = len(rows) + int(nodes.max(initial=-1)) + 1
    # Pairs and images are joined where a pair shows an image.
    edges = coo_array((np.ones(len(nodes)), (owners, len(rows) + nodes)), shape=(n, n))
    component = connected_components(edges, directed=False)[1][: len(rows)]
    names = _names(pairs, component)
    if UNIT in pairs:
        return pairs.assign(**{UNIT: names})
    place = pairs.columns.get_loc("correct_first") + 1 if "correct_first" in pairs else len(pairs.columns)
    table = pairs.copy()
    table.insert(place, UNIT, names)
    return table


def _images_of(pair: dict[str, Any]) -> list[Any]:
    """All images that a pair shows, in both runs."""
    listed_images = [listed(pair.get(name)) or [pair[column]] for column, name in IMAGE_LISTS.items()]
    return [image for images in listed_images for image in images]


def _names(pairs: pd.DataFrame, component: np.ndarray) -> pd.Series:
    """Units as the table gives them; elsewhere the first given one of the component, or its first sample_id."""
    first = pairs["sample_id"].groupby(component).transform("first")
    if UNIT not in pairs:
        return first
    given = pairs[UNIT].where(_given(pairs[UNIT]))
    return given.fillna(given.groupby(component).transform("first")).fillna(first)


def _given(units: pd.Series) -> pd.Series:
    return units.notna() & (units.astype(str).str.strip() != "")


def _image(image: Any) -> str:
    """What an image is, as a text that is equal for equal images."""
    if not isinstance(image, str | Path):
        return f"image {id(image)}"
    path = find(image)
    try:
        if path.is_file():  # a device may be read for ever
            state = path.stat()
            return _digest(str(path), state.st_size, state.st_mtime_ns)
    except (OSError, ValueError):
        pass
    return str(path)  # whoever needs the image will say that it cannot be read


@lru_cache(maxsize=2**16)
def _digest(path: str, _size: int, _changed: int) -> str:
    return content_of(path)
