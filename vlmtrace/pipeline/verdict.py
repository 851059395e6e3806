"""The verdict on a run in a few sentences, each of which follows from numbers in its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from vlmtrace.display.numbers import count, interval, number
from vlmtrace.display.wording import readable

#: What a circuit must be, as columns of the circuits table.
PROPERTIES = ("sufficient", "necessary", "complete", "minimal")


def verdict(
    circuits: Sequence[Mapping[str, Any]],
    universality: Sequence[Mapping[str, Any]],
    candidates: Sequence[Mapping[str, Any]],
    findings: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Say what the numbers amount to.

    Args:
        circuits: rows of the circuits table
        universality: rows of the universality table
        candidates: from `strongest_findings`
        findings: likewise

    Returns:
        sentences; none where no stage that they rest on has run
    """
    said = []
    if candidates and not findings:
        n = len(candidates)
        said.append(
            f"No finding: none of {count(n, 'candidate')} has an effect that surely differs from 0 on new pairs."
        )
    computed = [row for row in circuits if row["run"] == "computed"]
    if computed:
        said += _circuit(computed)
    everywhere = [row for row in universality if row["scope"] == "all" and row["criterion"] == "important"]
    if everywhere:
        row = everywhere[0]
        n, m = int(row["n_heads"]), int(row["m"])
        heads = "No head is" if n == 0 else f"{count(n, 'head').capitalize()} {'is' if n == 1 else 'are'}"
        cases = "the only case" if m == 1 else f"all {count(m, 'case')}"
        said.append(f"{heads} important in {cases}" + (f" (by chance {number(row['expected'])})." if n else "."))
    lost = [row for row in candidates if row["kind"] == "knockout"]
    if lost and not any(finding["kind"] == "knockout" for finding in findings):
        most = max(lost, key=lambda row: row["mean"])
        said.append(
            f"Of the knock-outs, the costliest, of {readable(most['task'])}, takes away {number(most['mean'])}"
            f"{_ends(lost, most['low'], most['high'])} of the gap{_picked(lost)}; a loss of 0.50 leaves the answer "
            "halfway between clean and corrupt."
        )
    return said


def _may_be_whole(row: Mapping[str, Any]) -> bool:
    """Whether all that was tested of a circuit holds, and something was not."""
    tested = [name for name in PROPERTIES if not pd.isna(row[name])]
    return len(tested) < len(PROPERTIES) and all(row[name] == "yes" for name in tested)


def _circuit(computed: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether the important heads are a circuit somewhere, and where they come nearest."""
    whole = [row for row in computed if all(row[name] == "yes" for name in PROPERTIES)]
    if whole:
        cells = "; ".join(f"{readable(row['task'])}, {row['corruption']} corruption" for row in whole)
        return [f"The important heads are a circuit, sufficient, necessary, complete and minimal, in {cells}."]
    if perhaps := [row for row in computed if row["k"] and _may_be_whole(row)]:
        cells = "; ".join(f"{readable(row['task'])}, {row['corruption']} corruption" for row in perhaps)
        return [
            f"Perhaps a circuit: the important heads are sufficient and necessary in {cells}; completeness and "
            "minimality were not tested."
        ]
    some = [row for row in computed if row["k"] and not pd.isna(row["sufficiency"]) and not pd.isna(row["left"])]
    if not some and any(row["k"] for row in computed):
        return [
            "Whether the important heads are a circuit is open: wherever there are any, all heads together may add "
            "nothing to the answer, and there is no share of nothing."
        ]
    if not some:
        return ["No circuit: in no case does an important head help the answer."]
    best = max(some, key=lambda row: row["sufficiency"])
    said = (
        f"No circuit: nowhere are the important heads sufficient, necessary, complete and minimal at once. Nearest is "
        f"{readable(best['task'])}, {best['corruption']} corruption: with all other heads as in the "
        f"corrupt run they restore {number(best['sufficiency'])}"
        f"{_ends(some, best['sufficiency_low'], best['sufficiency_high'])} of what all heads do{_picked(some)}, "
        f"{_word('sufficient', best['sufficient'])}; "
        f"without them {number(best['left'])} {interval(best['left_low'], best['left_high'])} is left, "
        f"{_word('necessary', best['necessary'])}."
    )
    return [said]


def _ends(compared: Sequence[Mapping[str, Any]], low: float, high: float) -> str:
    """The interval of a number; the largest of several has none on the pairs that picked it."""
    return "" if len(compared) > 1 else f" {interval(low, high)}"


def _picked(compared: Sequence[Mapping[str, Any]]) -> str:
    return " (picked on these pairs)" if len(compared) > 1 else ""


def _word(name: str, value: object) -> str:
    return {"yes": name, "partly": f"partly {name}"}.get(str(value), f"not {name}")
