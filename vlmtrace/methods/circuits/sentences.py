"""Which heads matter and whether they are a circuit, in sentences that follow the tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vlmtrace.core.arguments import checked
from vlmtrace.core.schema import CELL, HEAD, check_columns
from vlmtrace.display.numbers import count, number
from vlmtrace.display.sentences import amount, heads_listed, picked_in_words, with_interval
from vlmtrace.display.wording import head_name, readable
from vlmtrace.methods.circuits.heads import MIN_EFFECT

#: What a circuit must be, as columns of the circuits table.
_PROPERTIES = ("sufficient", "necessary", "complete", "minimal")


@checked
def describe_heads(heads: pd.DataFrame) -> str:
    """Say how many heads are important in each task and under each corruption, and name the strongest.

    Args:
        heads: from `head_table`

    Returns:
        one sentence per task and corruption; effects are means over units

    Raises:
        VlmtraceError: a column is missing
    """
    columns = (*CELL, *HEAD, "mean_effect", "detectable_effect", "is_important")
    check_columns(heads, columns, "heads")
    said = []
    for (task, corruption), cell in heads.groupby(CELL, sort=False):
        important = cell[cell["is_important"].astype(bool)].sort_values("mean_effect", key=abs, ascending=False)
        begin = f"{_cell(task, corruption)}: "
        if important.empty:
            by_size = cell.dropna(subset="mean_effect").sort_values("mean_effect", key=abs, ascending=False)
            if by_size.empty:
                said.append(f"{begin}no head has an effect: the two runs of no pair differ.")
                continue
            # Heads with large effects vary more, and need more to be found.
            least = by_size.head(5)["detectable_effect"].median()
            power = (
                "One unit (pairs that share an image or mirror each other) is not enough to find a head."
                if pd.isna(least)
                else f"A head as spread as the strongest would be found in 80 of 100 cases from "
                f"{number(max(MIN_EFFECT, least))} on."
            )
            said.append(
                f"{begin}no head is important; the largest mean effect is that of {_told(by_size.iloc[0])}. {power}"
            )
            continue
        first = important.iloc[0]
        against = int((important["mean_effect"] < 0).sum())
        said.append(
            f"{begin}{len(important)} of {amount(len(cell), 'head')} {'is' if len(important) == 1 else 'are'} important"
            f"{f', {against} of them against the answer' if against else ''}. The strongest is {_told(first)}"
            f"{f'; then {heads_listed(important.iloc[1:])}' if len(important) > 1 else ''}."
        )
    return "\n".join(said) or "No head was tested."


@checked
def describe_new_pairs(heads: pd.DataFrame, again: pd.DataFrame) -> str:
    """Say whether heads have on new pairs the effects that they had on the pairs which chose them.

    Args:
        heads: from `head_table`, of the discover pairs
        again: from `head_table`, of the verify pairs

    Returns:
        one sentence per task and corruption

    Raises:
        VlmtraceError: a column is missing
    """
    for name, table in (("heads", heads), ("again", again)):
        check_columns(table, (*CELL, *HEAD, "mean_effect", "is_important"), name)
    both = heads.merge(again, on=[*CELL, *HEAD], suffixes=("", "_verify"))
    said = []
    for (task, corruption), cell in both.groupby(CELL, sort=False):
        effects = cell[["mean_effect", "mean_effect_verify"]].dropna()
        varies = len(effects) > 1 and (effects.std() > 0).all()
        alike = f"correlate by {number(effects.corr().iloc[0, 1])}" if varies else "do not vary over heads"
        important = cell[cell["is_important"].astype(bool)]
        kept = int((np.sign(important["mean_effect"]) == np.sign(important["mean_effect_verify"])).sum())
        found = int(important["is_important_verify"].astype(bool).sum())
        sign = "head keeps its" if len(important) == 1 else "heads keep their"
        end = (
            f"{kept} of {len(important)} important {sign} sign, {found} {'is' if found == 1 else 'are'} important again"
        )
        said.append(
            f"{_cell(task, corruption)}: mean effects of both halves {alike}"
            f"{f'; {end}' if len(important) else '; no head was important'}."
        )
    return "\n".join(said) or "No head was measured on both halves."


@checked
def describe_circuits(circuits: pd.DataFrame) -> str:
    """Say whether the important heads are a circuit in each task and under each corruption.

    Args:
        circuits: from `circuit_verdicts`; where a case has a computed run, only that is told

    Returns:
        one sentence per task and corruption

    Raises:
        VlmtraceError: a column is missing
    """
    numbers = ("sufficiency", "sufficiency_low", "sufficiency_high", "left", "left_low", "left_high")
    check_columns(circuits, (*CELL, "run", "k", *numbers, "sufficiency_random", *_PROPERTIES), "circuits")
    said = []
    for (task, corruption), rows in circuits.groupby(CELL, sort=False):
        computed = rows[rows["run"] == "computed"]
        row = (computed if len(computed) else rows).iloc[0]
        if not row["k"]:
            said.append(f"{_cell(task, corruption)}: no important head helps the answer, so there is no circuit.")
            continue
        if pd.isna(row["sufficiency"]) or pd.isna(row["left"]):
            said.append(
                f"{_cell(task, corruption)}: whether the {count(int(row['k']), 'important head')} "
                f"{'are' if row['k'] > 1 else 'is'} a circuit is open, since all heads together may add nothing to the "
                "answer, and there is no share of nothing."
            )
            continue
        untested = [name for name in _PROPERTIES if pd.isna(row[name])]
        whole = not untested and all(row[name] == "yes" for name in _PROPERTIES)
        open_ = bool(untested) and all(row[name] == "yes" for name in _PROPERTIES if name not in untested)
        alone = with_interval(row["sufficiency"], row["sufficiency_low"], row["sufficiency_high"])
        left = with_interval(row["left"], row["left_low"], row["left_high"])
        heads = f"the {count(int(row['k']), 'head')} {'restore' if row['k'] > 1 else 'restores'}"
        said.append(
            f"{_cell(task, corruption)}: {'a circuit' if whole else 'perhaps a circuit' if open_ else 'no circuit'}. "
            f"Alone, {heads} {alone} of what all "
            f"heads do, {_word('sufficient', row['sufficient'])} (as many random heads: "
            f"{number(row['sufficiency_random'])}); without {'them' if row['k'] > 1 else 'it'} {left} is left, "
            f"{_word('necessary', row['necessary'])}."
            f"{' Completeness and minimality were not tested.' if untested else ''}"
        )
    return "\n".join(said) or "No circuit was tested."


def _cell(task: str, corruption: str) -> str:
    return f"{readable(task)[0].upper()}{readable(task)[1:]}, {corruption} corruption"


def _name(row: dict | pd.Series) -> str:
    return head_name(row["module"], row["layer"], row["head"])


def _told(row: pd.Series) -> str:
    return f"{_name(row)}, {picked_in_words(row['mean_effect'])}"


def _word(name: str, value: object) -> str:
    return {"yes": name, "partly": f"partly {name}"}.get(str(value), f"not {name}")
