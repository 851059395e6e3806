"""The same patches in another pair: do they do there what they did here?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from vlmtrace.methods.patching.intervention import Patch


class PutAway(NamedTuple):
    """Patches of an example that is no longer looked at.

    Attributes:
        name: of the example
        patches: in their order
        tokens: by block, its positions: position, token, token_role
        effect: of all of them together, there
    """

    name: str
    patches: list[Patch]
    tokens: dict[str, pd.DataFrame]
    effect: float


def carried(
    patches: Sequence[Patch], here: Mapping[str, pd.DataFrame], there: Callable[[str], pd.DataFrame]
) -> tuple[list[Patch], list[Patch]]:
    """Patches of one pair as patches of another.

    Whole layers and heads are the same in every pair. A position is carried over to the token of the same role, of
    several of one role (patches of the image) to that of the same number; a patch any of whose positions has none there
    is left behind.

    Args:
        patches: of the first pair, with indices of positions
        here: by block, the positions of the first pair: position, token_role
        there: the same of the second pair, for a block

    Returns:
        the patches of the second pair, and those of the first that have no place there
    """
    found, left = [], []
    for patch in patches:
        positions = patch.indices
        if positions is None:
            found.append(patch)
            continue
        roles = _numbered(here[patch.block]).set_index("position")["numbered"]
        places = _numbered(there(patch.block)).set_index("numbered")["position"]
        wanted = [roles[position] for position in positions]
        if all(role in places.index for role in wanted):
            found.append(patch._replace(positions=tuple(int(places[role]) for role in wanted)))
        else:
            left.append(patch)
    return found, left


def _numbered(tokens: pd.DataFrame) -> pd.DataFrame:
    """The same with each role numbered in its order ("image 0", "image 1") in the column numbered."""
    roles = tokens["token_role"].astype(str)
    return tokens.assign(numbered=roles + " " + roles.groupby(roles).cumcount().astype(str))
