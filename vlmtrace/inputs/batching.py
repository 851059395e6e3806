"""Batches of pairs of equal shape, since nothing is ever padded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd
from PIL import Image

from vlmtrace.core.images import open_image
from vlmtrace.inputs.pair_runs import PairRuns, encode_pair, run_pairs
from vlmtrace.inputs.token_roles import token_table
from vlmtrace.models import VLM, Inputs


def equal_length_batches(
    model: VLM, prompts: Iterable[str], batch_size: int, *images: Iterable[Image.Image | str | Path]
) -> list[list[int]]:
    """Row numbers of prompts in batches of equally many tokens, so that nothing has to be padded.

    Args:
        images: for each run its images, one a prompt; those of a batch are of equal size if the model needs that
    """
    columns = images if model.image_size_matters else ()
    sizes = zip(*([open_image(image).size for image in column] for column in columns), strict=True)
    rows: dict[tuple, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault((model.count_tokens(prompt), next(sizes, ())), []).append(row)
    return [same[start : start + batch_size] for same in rows.values() for start in range(0, len(same), batch_size)]


#: Pairs that share a sweep: enough to fill the processor with a small model, few enough to stay in its cache.
PAIRS_AT_ONCE = 8

#: Pairs whose prepared images are held at once while groups are formed.
SLAB = 64

#: "all", token roles, or indices.
Positions = str | Sequence[str] | Sequence[int]

#: By block, what is patched at every position: (module, layer, head or None for the whole activation).
Plan = dict[str, list[tuple[str, int, int | None]]]


def batches_of_pairs(
    model: VLM, pairs: pd.DataFrame, corruption: str, plan: Plan, positions: Positions
) -> Iterator[tuple[pd.DataFrame, PairRuns, dict[str, pd.DataFrame]]]:
    """Groups of pairs of equal shape whose patched positions agree.

    Yields:
        the group's pairs, their runs, and by block the chosen rows of their token tables, one pair after the other
    """
    for slab in range(0, len(pairs), SLAB):
        found: dict[tuple, list[int]] = {}
        encoded, tables = {}, {}
        for row in range(slab, min(slab + SLAB, len(pairs))):
            encoded[row] = encode_pair(model, pairs, row, corruption)
            clean = encoded[row][0]
            pair = pairs.iloc[row].to_dict()
            tables[row] = {
                block: _choose_positions(token_table(model, pair, block, clean), positions) for block in plan
            }
            shapes = tuple(tuple(value.shape) for value in clean.values())
            places = tuple(tuple(table["position"]) for table in tables[row].values())
            found.setdefault((shapes, places), []).append(row)
        for rows in found.values():
            for start in range(0, len(rows), PAIRS_AT_ONCE):
                chosen = rows[start : start + PAIRS_AT_ONCE]
                group = pairs.iloc[chosen]
                roles = {block: pd.concat([tables[row][block] for row in chosen]) for block in plan}
                yield group, run_pairs(model, group, [encoded[row] for row in chosen]), roles


def _choose_positions(table: pd.DataFrame, positions: Positions) -> pd.DataFrame:
    if isinstance(positions, str) and positions == "all":
        return table
    wanted = [positions] if isinstance(positions, str) else list(positions)
    column = "token_role" if all(isinstance(name, str) for name in wanted) else "position"
    return table[table[column].isin(wanted)]


def repeated(inputs: Inputs, n: int) -> Inputs:
    """The inputs of one question n times."""
    return {name: value.repeat(n, *[1] * (value.ndim - 1)) for name, value in inputs.items()}
