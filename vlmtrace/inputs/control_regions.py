"""Image tokens around a region, and as many others drawn at random: what an ablation of the region is compared with.

An encoder may move what it knows of an object into the tokens beside it; so a region is also taken with a margin of
one token. And replacing any tokens harms a model: so as many others are replaced, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from zlib import crc32

import numpy as np

from vlmtrace.core.arguments import Seed, checked
from vlmtrace.core.types import Array
from vlmtrace.inputs.image_regions import check_region

#: "object with margin", "as many as object", "as many as object with margin".
_CONTROL = re.compile(r"(?P<drawn>as many as )?(?P<region>.+?)(?P<margin> with margin)?")

#: Boxes of neighbors share an edge or a corner, but for rounding: in fractions of the image.
TOUCHING = 1e-6


def check_control_region(name: str) -> str:
    """Return the name of a region, with or without what this module puts around it.

    Args:
        name: of a region, such as "object"; "object with margin": with the tokens beside it; "as many as object", "as
            many as object with margin": so many others

    Returns:
        the same

    Raises:
        VlmtraceError: there is no such region

    >>> check_control_region("as many as object with margin")
    'as many as object with margin'
    """
    check_region(_parts(name)[1])
    return name


def _parts(name: str) -> tuple[bool, str, bool]:
    """Whether it is drawn, the region, and whether it has a margin."""
    found = _CONTROL.fullmatch(name)
    if found is None:
        return False, name, False
    return bool(found["drawn"]), found["region"], bool(found["margin"])


@checked
def with_margin(chosen: Array, boxes: Array) -> Array:
    """Some image tokens and all that touch one of them, at an edge or a corner.

    Args:
        chosen: bool (n,)
        boxes: (n, 4), from `VLM.image_cells`; a token without a place touches none

    Returns:
        bool (n,)

    >>> boxes = np.array([[0, 0, 1, 0.25], [0, 0.25, 1, 0.5], [0, 0.5, 1, 0.75], [0, 0.75, 1, 1]])
    >>> with_margin(np.array([True, False, False, False]), boxes).tolist()
    [True, True, False, False]
    """
    top, left, bottom, right = (side[:, None] for side in boxes.T)
    touches = (top <= bottom.T + TOUCHING) & (bottom >= top.T - TOUCHING)
    touches &= (left <= right.T + TOUCHING) & (right >= left.T - TOUCHING)
    return chosen | (touches & chosen).any(axis=1)


@checked
def control_regions(
    regions: Mapping[str, Array], boxes: Array, names: list[str], key: str = "", seed: Seed = 0
) -> dict[str, Array]:
    """Regions by name, those with a margin and those drawn at random among them.

    Args:
        regions: by name, bool (n,), from `image_regions`
        boxes: (n, 4), from `VLM.image_cells`
        names: those that are wanted, see `check_control_region`
        key: what tells one pair's draw from another's, such as its sample_id
        seed: of the draws

    Returns:
        by name, bool (n,), those whose region is there. Drawn tokens have a place and lie outside the region; where too
        few do, all of them are taken

    >>> regions = {"object": np.array([True, True, False, False, False])}
    >>> boxes = np.array([[0, i / 5, 1, (i + 1) / 5] for i in range(5)])
    >>> found = control_regions(regions, boxes, ["object with margin", "as many as object"])
    >>> {name: int(chosen.sum()) for name, chosen in found.items()}
    {'object with margin': 3, 'as many as object': 2}
    """
    found = {}
    for name in names:
        drawn, region, margin = _parts(name)
        if region not in regions:
            continue
        chosen = with_margin(regions[region], boxes) if margin else regions[region]
        if drawn:
            others = np.flatnonzero(~chosen & ~np.isnan(boxes).any(axis=1))
            rng = np.random.default_rng([seed, crc32(key.encode()), crc32(name.encode())])
            taken = rng.choice(others, min(int(chosen.sum()), len(others)), replace=False)
            chosen = np.isin(np.arange(len(boxes)), taken)
        if chosen.any():
            found[name] = chosen
    return found
