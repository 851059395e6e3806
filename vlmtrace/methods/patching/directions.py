"""What the two directions say of the same heads: sums, and heads that one of them misses."""

from __future__ import annotations

import pandas as pd

from vlmtrace.core import stats
from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import HEAD, UNIT, check_table
from vlmtrace.core.types import Array
from vlmtrace.display.wording import head_name, readable
from vlmtrace.methods.patching.direction import DIRECTIONS

_NEEDED = ["sample_id", "corruption", "direction", *HEAD, "patching_effect"]


@checked
def direction_sums(whole_heads: pd.DataFrame) -> pd.DataFrame:
    """Add up the effects of all single heads of each block, in both directions.

    Were effects to add up, the heads through which all that differs passes would sum to 1 in both directions. A sum
    below 1 says that heads do together what none does alone: of denoising that they need each other, of noising that
    they back each other up. A sum above 1 says that each restores, or takes, what others would have, too.

    Args:
        whole_heads: from `patch_whole_heads`, any number of corruptions, and both directions

    Returns:
        one row per corruption and block: n_heads, n (pairs), n_units, and for each direction the mean over pairs (units
        first) of the summed effects with the ends of its 95 % interval: denoising, denoising_low, denoising_high,
        noising, noising_low, noising_high. Pairs without contrast are left out

    Raises:
        VlmtraceError: a column is missing, a head of a pair lacks a direction or stands twice in one, or no pair has a
            contrast
    """
    effects = _both_directions(whole_heads)
    rows = []
    for (corruption, block), mine in effects.groupby(["corruption", "block"], sort=False):
        row: dict[str, object] = {
            "corruption": corruption,
            "block": block,
            "n_heads": len(mine[HEAD].drop_duplicates()),
            "n": mine["sample_id"].nunique(),
        }
        for direction in DIRECTIONS:
            sums = mine[mine["direction"] == direction].groupby("sample_id", sort=False)["patching_effect"].sum()
            by_unit = stats.unit_means(sums.to_numpy(), _units(mine).loc[sums.index].to_numpy())
            (low,), (high,) = stats.mean_interval(by_unit)
            row |= {"n_units": len(by_unit), direction: float(by_unit.mean())}
            row |= {f"{direction}_low": low, f"{direction}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


@checked
def compare_directions(whole_heads: pd.DataFrame) -> pd.DataFrame:
    """Mean effect of each head in both directions, and how sure it is that they differ.

    Args:
        whole_heads: from `patch_whole_heads`, any number of corruptions, and both directions

    Returns:
        one row per corruption and head, the largest difference first: corruption, block, module, layer, head, n,
        denoising, noising (means over pairs, units first), difference (denoising − noising) with the ends of its 95 %
        interval, low and high, which is not corrected for the number of heads. Positive: enough alone but not needed,
        since others do the same; negative: needed but not enough alone

    Raises:
        VlmtraceError: a column is missing, a head of a pair lacks a direction or stands twice in one, or no pair has a
            contrast
    """
    effects = _both_directions(whole_heads)
    tables = []
    for corruption, mine in effects.groupby("corruption", sort=False):
        wide = mine.pivot(index="sample_id", columns=["direction", *HEAD], values="patching_effect")
        units = _units(mine).loc[wide.index].to_numpy()
        heads = list(wide["denoising"].columns)
        means: dict[str, Array] = {
            direction: stats.unit_means(wide[direction][heads].to_numpy(), units) for direction in DIRECTIONS
        }
        difference = means["denoising"] - means["noising"]  # (unit, head)
        low, high = stats.mean_interval(difference)
        table = pd.DataFrame(heads, columns=HEAD).assign(n=len(wide), difference=difference.mean(0), low=low, high=high)
        for place, direction in enumerate(DIRECTIONS):
            table.insert(len(HEAD) + 1 + place, direction, means[direction].mean(0))
        table.insert(0, "corruption", corruption)
        tables.append(table.sort_values("difference", ascending=False, kind="stable"))
    return pd.concat(tables, ignore_index=True)


def _both_directions(whole_heads: pd.DataFrame) -> pd.DataFrame:
    check_table(whole_heads, _NEEDED, "whole_heads")
    missing = set(DIRECTIONS) - set(whole_heads["direction"])
    if missing:
        raise VlmtraceError(f"The whole_heads table has no {min(missing)}: run patch_whole_heads in both directions.")
    effects = whole_heads[whole_heads["patching_effect"].notna()]
    if effects.empty:
        raise VlmtraceError(
            "No pair of the whole_heads table has a contrast: its clean and corrupt runs do not differ."
        )
    key = ["corruption", "sample_id", *HEAD]
    if effects.duplicated([*key, "direction"]).any():
        raise VlmtraceError(
            "A head stands twice in a pair under one corruption and direction: pass the whole_heads table of one task."
        )
    # Each head of each pair counts in both directions: sums and differences of unlike pairs would say nothing.
    ways = effects.groupby(key, sort=False, observed=True).size()
    if (ways < len(DIRECTIONS)).any():
        corruption, name, *head = ways.idxmin()
        raise VlmtraceError(
            f"Under {corruption} corruption the whole_heads table has pair {name!r} and head {head_name(*head[1:])} of "
            f"the {readable(head[0])} in one direction only: run patch_whole_heads in both directions on the same "
            "pairs and blocks."
        )
    return effects


def _units(effects: pd.DataFrame) -> pd.Series:
    """Unit by sample_id; a pair whose unit is not known is its own."""
    column = UNIT if UNIT in effects else "sample_id"
    return effects.drop_duplicates("sample_id").set_index("sample_id", drop=False)[column]
