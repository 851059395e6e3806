"""From tables to the numbers that a figure shows: what is averaged, and in which order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_columns, check_table
from vlmtrace.inputs.token_roles import shows_image


def with_pair_columns(table: pd.DataFrame, pairs: pd.DataFrame | None, columns: Sequence[str]) -> pd.DataFrame:
    """Add columns of the pairs to a table of effects, by sample_id (and task, where both tables name it).

    Args:
        table: a table of effects with the column sample_id
        pairs: their pairs table; may be None where no column is missing
        columns: wanted in the table

    Returns:
        the table with these columns

    Raises:
        VlmtraceError: a column is missing and pairs are not given or lack it, or a pair of the effects is not among
            them
    """
    missing = [column for column in columns if column not in table]
    if not missing:
        return table
    if pairs is None:
        raise VlmtraceError(f"The effects lack {', '.join(missing)}: pass pairs=…, the table of pairs that has them.")
    check_columns(pairs, ["sample_id", *missing], "pairs")
    keys = pair_keys(table, pairs)
    merged = table.merge(pairs[[*keys, *missing]], on=keys, how="left", validate="many_to_one", indicator=True)
    strangers = merged.loc[merged["_merge"] == "left_only", "sample_id"]
    if len(strangers):
        raise VlmtraceError(f"The pair {strangers.iloc[0]!r} is not in the pairs table: pass these effects' own pairs.")
    return merged.drop(columns="_merge")


def pair_keys(*tables: pd.DataFrame) -> list[str]:
    """The columns that tell pairs apart: sample_id is unique in its task only.

    Args:
        *tables: that are to be joined or grouped

    Returns:
        task and sample_id if all tables have a task, otherwise sample_id
    """
    return ["task", "sample_id"] if all("task" in table for table in tables) else ["sample_id"]


def unique_sample_ids(pairs: pd.DataFrame) -> pd.DataFrame:
    """A sample_id is unique in its task only: where tasks share ids, let each begin with its task.

    Args:
        pairs: with the column sample_id, and task where there are several

    Returns:
        the pairs as they are, or with sample_id "task/sample_id"
    """
    if "task" not in pairs or not pairs["sample_id"].duplicated().any():
        return pairs
    return pairs.assign(sample_id=pairs["task"] + "/" + pairs["sample_id"])


class RoleMeans(NamedTuple):
    """One panel of a heat map: mean effects over pairs.

    Attributes:
        matrix: layer × token role, in the order of the prompt
        labels: of the roles; they say where a role stands for several positions: "the (2×)"
        n: pairs averaged, the fewest and the most over all cells
    """

    matrix: pd.DataFrame
    labels: list[str]
    n: tuple[int, int]


def role_means(effects: pd.DataFrame) -> RoleMeans | None:
    """Average the effects of one module over pairs.

    Several positions of a prompt can share a role (two articles, the pieces of a split word): they are averaged within
    the pair first, so that no pair weighs more than another. Missing effects are left out.

    Args:
        effects: a module_patching table of one block, module and corruption

    Returns:
        the means; None where all effects are missing
    """
    found = effects.dropna(subset=["patching_effect"])
    if found.empty:
        return None
    cell = ["layer", "token_role"]
    per_pair = found.groupby([*pair_keys(found), *cell])["patching_effect"].agg(["mean", "size"])
    cells = per_pair.groupby(cell).agg(mean=("mean", "mean"), positions=("size", "mean"), n=("size", "size"))
    roles = prompt_order(found)
    matrix = cells["mean"].unstack("token_role").reindex(columns=roles).sort_index()
    positions = cells["positions"].groupby("token_role").mean()
    labels = [role if positions[role] < 1.5 else f"{role} ({positions[role]:.0f}×)" for role in roles]
    return RoleMeans(matrix, labels, (int(cells["n"].min()), int(cells["n"].max())))


def prompt_order(effects: pd.DataFrame) -> list[str]:
    """Token roles as they first appear in the most frequent kind of prompt.

    A role that this prompt lacks follows the one that precedes it in its own. The mean position would not do: where
    half of the prompts name the correct option first, "correct", "or" and "incorrect" all lie in the middle.

    Args:
        effects: with the columns sample_id, position and token_role

    Returns:
        all roles, each once
    """
    firsts = effects.groupby([*pair_keys(effects), "token_role"], sort=False)["position"].min().reset_index()
    prompts = Counter(tuple(rows.sort_values("position")["token_role"])
                      for _, rows in firsts.groupby(pair_keys(effects), sort=False))  # fmt: skip
    order: list[str] = []
    for prompt, _ in prompts.most_common():
        for index, role in enumerate(prompt):
            if role not in order:
                order.insert(order.index(prompt[index - 1]) + 1 if index else 0, role)
    return order


def token_matrix(effects: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Arrange the effects of one pair as layer × position.

    Args:
        effects: a module_patching table of one pair, block, module and corruption

    Returns:
        the matrix (layers as rows, positions as columns), and the token at each position
    """
    matrix = effects.pivot(index="layer", columns="position", values="patching_effect").sort_index()
    tokens = effects.drop_duplicates("position").set_index("position")["token"].reindex(matrix.columns)
    return matrix, [str(token) for token in tokens]


def patch_grids(
    effects: pd.DataFrame, grid: tuple[int, int] | Sequence[tuple[int, int]] | None = None
) -> dict[int, np.ndarray]:
    """Arrange the effects of one pair as they lie in the image, by layer.

    Args:
        effects: rows of one pair and module of the vision encoder; patches have the token_role "image", and stand row
            by row unless their tokens ("row,column") say otherwise: some vision encoders see them in another order
        grid: rows and columns of patches, of several images a list of them; None: as many rows as columns

    Returns:
        by layer, (row, column) of the patches' effects. Several images lie side by side, as `picture_of` of
        `vlmtrace.inputs.pictures` shows them

    Raises:
        VlmtraceError: the number of patches does not fill the grid
    """
    at_image = effects[shows_image(effects["token_role"])]
    images = sorted(set(at_image["token_role"]), key=lambda role: int(role.removeprefix("image") or 0))
    given = [grid] if grid is None or isinstance(grid[0], int) else list(grid)
    if len(images) < 2:
        return _grids_of_one(at_image, given[0])  # type: ignore[arg-type]
    if given[0] is not grid and len(given) != len(images):
        raise VlmtraceError(f"There are {len(images)} images and {len(given)} grids: pass (rows, columns) of each.")
    grids = given if len(given) == len(images) else given * len(images)
    each = [
        _grids_of_one(at_image[at_image["token_role"] == role], one)  # type: ignore[arg-type]
        for role, one in zip(images, grids, strict=True)
    ]
    return {layer: _beside([one[layer] for one in each]) for layer in each[0]}


def _grids_of_one(at_image: pd.DataFrame, grid: tuple[int, int] | None) -> dict[int, np.ndarray]:
    """By layer, (row, column) of the effects of one image's patches."""
    patches = check_table(at_image, ["layer", "position"], "image patch")
    matrix = patches.pivot(index="layer", columns="position", values="patching_effect").sort_index()
    if "token" in patches and patches["token"].str.fullmatch(r"\d+,\d+").all():
        names = patches.drop_duplicates("position").set_index("position")["token"]
        matrix = matrix[sorted(matrix.columns, key=lambda position: tuple(map(int, names[position].split(","))))]
    side = round(matrix.shape[1] ** 0.5)
    rows, columns = grid or (side, side)
    if rows * columns != matrix.shape[1]:
        raise VlmtraceError(
            f"{matrix.shape[1]} image patches do not fill {rows} × {columns}: pass grid=(rows, columns) of this model."
        )
    return {layer: values.to_numpy().reshape(rows, columns) for layer, values in matrix.iterrows()}


def _beside(grids: Sequence[np.ndarray]) -> np.ndarray:
    """Grids of images side by side, each stretched to the height of the picture: its cells are repeated."""
    rows = math.lcm(*(len(grid) for grid in grids))
    stretched = [grid.repeat(rows // len(grid), axis=0) for grid in grids]
    if len({grid.shape for grid in grids}) == 1:
        return np.concatenate(grids, axis=1)
    widths = [grid.shape[1] / grid.shape[0] for grid in grids]  # of square patches, at equal heights
    columns = [max(1, round(width * rows)) for width in widths]
    return np.concatenate(
        [grid[:, np.arange(n) * grid.shape[1] // n] for grid, n in zip(stretched, columns, strict=True)], axis=1
    )


def spread_over_kinds(pairs: pd.DataFrame, n: int) -> pd.DataFrame:
    """Choose n pairs of as many kinds (task, category, order of options) as there are.

    Args:
        pairs: a pairs table
        n: how many

    Returns:
        the first pair of every kind, then the second of every kind, …; all pairs where there are fewer than n
    """
    kinds = [column for column in ("task", "category", "correct_first") if column in pairs]
    turn = pairs.groupby(kinds, sort=False, observed=True).cumcount() if kinds else pd.Series(range(len(pairs)))
    return pairs.iloc[np.argsort(turn.to_numpy(), kind="stable")[:n]]
