"""What sentences about a table are made of: a mean with its interval, the name of a place, a list of names.

The sentences themselves are written by the rooms of methods, from the tables that their figures draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.core import stats
from vlmtrace.core.schema import UNIT
from vlmtrace.display.numbers import interval, number
from vlmtrace.display.wording import head_name, readable

#: Token roles as sentences name them; others stand in quotation marks.
_ROLES = {
    "correct": "the correct option",
    "incorrect": "the incorrect option",
    "last": "the last position",
    "image": "the image tokens",
    "noun": "the noun",
    "subject": "the subject",
    "verb": "the verb",
    "object": "the object",
}


def role_in_words(role: object) -> str:
    """Name the token that has a role.

    Args:
        role: as tables have it

    Returns:
        the words

    Example:
        >>> role_in_words("correct"), role_in_words("[SEP]")
        ('the correct option', 'the token “[SEP]”')
    """
    return _ROLES.get(str(role), f"the token “{role}”")


def place_in_words(row: Mapping[str, Any]) -> str:
    """Name a module of a layer.

    Args:
        row: with block, module and layer

    Returns:
        the words

    Example:
        >>> place_in_words({"block": "text_encoder", "module": "cross_attention", "layer": 2})
        'the cross-attention of layer 2 of the text encoder'
    """
    module = "residual stream" if row["module"] == "residual" else readable(row["module"])
    return f"the {module} of layer {row['layer']} of the {readable(row['block'])}"


def listed(names: Sequence[str], at_most: int = 4) -> str:
    """Join names, of many only the first.

    Args:
        names: in the order in which they are told
        at_most: how many are told by name, where there are at least two more

    Returns:
        the words; "none" without names

    Example:
        >>> listed(["3.6"]), listed(["3.6", "2.1"]), listed(list("abcdef"), at_most=3), listed([])
        ('3.6', '3.6 and 2.1', 'a, b, c and 3 more', 'none')
    """
    told = list(names)
    if len(told) > at_most + 1:
        told = [*told[:at_most], f"{len(told) - at_most} more"]
    return " and ".join([", ".join(told[:-1]), told[-1]]) if len(told) > 1 else "".join(told) or "none"


def heads_listed(heads: pd.DataFrame, at_most: int = 4) -> str:
    """Name heads, of many only the first; what all have in common is said once.

    Args:
        heads: module, layer and head of each, in the order in which they are told
        at_most: how many are told by name

    Returns:
        the words

    Example:
        >>> heads = pd.DataFrame({"module": ["cross_attention", "cross_attention"], "layer": 3, "head": [6, 1]})
        >>> heads_listed(heads), heads_listed(heads.assign(module=["self_attention", "cross_attention"]))
        ('cross-attention 3.6 and 3.1', 'self-attention 3.6 and cross-attention 3.1')
    """
    if heads["module"].nunique() != 1:
        return listed([head_name(row.module, row.layer, row.head) for row in heads.itertuples()], at_most)
    return f"{readable(heads['module'].iloc[0])} {listed([f'{r.layer}.{r.head}' for r in heads.itertuples()], at_most)}"


def amount(value: int, noun: str) -> str:
    """Write how many of something there are in figures, as beside another number.

    Args:
        value: how many
        noun: of one; several have an s

    Returns:
        the words; `numbers.count` writes small numbers in words

    Example:
        >>> amount(1, "head"), amount(12052, "edge")
        ('1 head', '12,052 edges')
    """
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def with_interval(mean: float | None, low: float | None, high: float | None, digits: int = 2, unit: str = "") -> str:
    """Write a mean with its interval, and say where the interval holds 0.

    Args:
        mean: the mean
        low: the lower end of its interval
        high: the upper end; a missing end: one unit alone gives no interval
        digits: after the point
        unit: of the mean, e.g. "logits"

    Returns:
        the text

    Example:
        >>> with_interval(0.41, 0.35, 0.47), with_interval(0.4, float("nan"), float("nan"))
        ('0.41 [0.35, 0.47]', '0.40 (no interval)')
        >>> with_interval(0.02, -0.01, 0.05), with_interval(0.0, 0.0, 0.0)
        ('0.02 [−0.01, 0.05], not told apart from 0', '0.00')
        >>> with_interval(0.001, -0.002, 0.004), with_interval(2.0, 1.0, 3.0, 1, unit="logits")
        ('0.00', '2.0 logits [1.0, 3.0]')
    """
    said = f"{number(mean, digits)} {unit}".strip()
    if low is None or high is None or pd.isna(low) or pd.isna(high):
        return said + ("" if mean is None or pd.isna(mean) else " (no interval)")
    if low == high or {number(end, digits) for end in (low, high)} == {number(0, digits)}:
        return said
    unsure = ", not told apart from 0" if low <= 0 <= high else ""
    return f"{said} {interval(low, high, digits)}{unsure}"


def mean_of(rows: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """Average the pairs of each unit, then the units.

    Args:
        rows: with the columns sample_id and `column`; several rows of a pair are averaged first
        column: numbers; rows without one are left out

    Returns:
        mean, and lower and upper end of its 95 % interval over units; all missing without rows
    """
    keys = [UNIT, "sample_id"] if UNIT in rows else ["sample_id"]
    by_pair = rows.dropna(subset=column).groupby(keys, sort=False, observed=True)[column].mean().reset_index()
    if by_pair.empty:
        return (float("nan"),) * 3
    values = stats.unit_means(by_pair[column].to_numpy(float), by_pair[keys[0]].to_numpy())
    (low,), (high,) = stats.mean_interval(values)
    return float(np.mean(values)), float(low), float(high)


def picked_in_words(mean: float | None, digits: int = 2, unit: str = "", on: str = "pairs") -> str:
    """Write the largest of many means, which gets no interval on what picked it: there it is too large.

    Args:
        mean: the mean
        digits: after the point
        unit: of the mean, e.g. "logits"
        on: what picked it, and what it is the mean of

    Returns:
        the text

    Example:
        >>> picked_in_words(0.414), picked_in_words(1.5, 1, "nats", on="questions")
        ('0.41 (picked on these pairs)', '1.5 nats (picked on these questions)')
    """
    return f"{f'{number(mean, digits)} {unit}'.strip()} (picked on these {on})"


def mean_in_words(rows: pd.DataFrame, column: str, digits: int = 2, unit: str = "") -> str:
    """Write the mean of a column over units, with its interval.

    Args:
        rows: with the columns sample_id and `column`
        column: numbers
        digits: after the point
        unit: of the column

    Returns:
        the text, see `with_interval`

    Example:
        >>> mean_in_words(pd.DataFrame({"sample_id": ["a", "b"], "effect": [0.5, 0.5]}), "effect")
        '0.50'
    """
    return with_interval(*mean_of(rows, column), digits, unit)
