"""What was measured of each claim, as a file for the documentation and as its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vlmtrace.benchmarks.claims.material import Number
from vlmtrace.benchmarks.claims.registry import CLAIMS, Claim
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import read_json
from vlmtrace.display.numbers import NOTHING
from vlmtrace.display.numbers import interval as ends
from vlmtrace.display.numbers import number as text

HOLDS, FAILS, OPEN = "holds", "does not hold", "not shown"
NOT_MEASURED = "not measured"


class Found:
    """What was measured.

    Attributes:
        models: in the order of the columns
        given: by model, how many pairs of each task it was asked, and the seed
        fingerprints: by model, of its weights; empty where the file has none
        numbers: by (claim, model), what was measured and its controls; of a claim that cannot be asked of a model: none
    """

    def __init__(self, path: Path):
        """Read it.

        Args:
            path: of the file

        Raises:
            VlmtraceError: it is no such file
        """
        try:
            content: list[dict[str, Any]] = read_json(path)["models"]
            self.models = [str(one["name"]) for one in content]
            self.given = {one["name"]: (int(one["n"]), int(one["seed"])) for one in content}
            self.fingerprints = {one["name"]: str(one.get("fingerprint", "")) for one in content}
            self.numbers = {
                (claim, one["name"]): [_read(row) for row in rows]
                for one in content
                for claim, rows in one["claims"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise VlmtraceError(f"{path} is not what make claims writes: run it again.") from error


def _read(row: dict[str, Any]) -> Number:
    value, low, high = (np.nan if row[name] is None else float(row[name]) for name in ("value", "low", "high"))
    return Number(row["what"], value, low, high, int(row["n"]), row["note"])


def verdict(claim: Claim, numbers: list[Number]) -> str:
    """Whether a claim holds on a model: whether what was measured and its control have intervals that do not overlap.

    Args:
        claim: with the name of its control
        numbers: what was measured, and its controls; a control without an interval counts as known

    >>> few = CLAIMS["few heads"]
    >>> verdict(few, [Number("measured", 0.4, 0.3, 0.5, 9), Number("share of the heads", 0.06, None, None, 9)])
    'holds'
    """
    measured = numbers[0]
    control = next((one for one in numbers[1:] if one.what == claim.against), None)
    other = (0.0, 0.0) if control is None else _ends(control)
    mine = _ends(measured)
    if np.isnan([*mine, *other]).any():
        return OPEN
    if claim.larger:
        return HOLDS if mine[0] > other[1] else FAILS if mine[1] < other[0] or mine[1] < 0 else OPEN
    return HOLDS if mine[1] < other[0] else FAILS if mine[0] > other[1] else OPEN


def _ends(one: Number) -> tuple[float, float]:
    low, high = (np.nan if end is None else end for end in (one.low, one.high))
    return (one.value if np.isnan(low) else low, one.value if np.isnan(high) else high)


def claims_table(found: Found) -> str:
    """The claims as a table in Markdown: claim, what the numbers are, a column for each model, the notebook.

    Args:
        found: what was measured
    """
    lines = []
    paper = ""
    for claim in CLAIMS.values():
        if claim.paper != paper:
            paper = claim.paper
            name, link = paper.rsplit(", ", 1)
            lines += ["", f"### {name.replace(' (', ': ').replace(')', '')}", "", f"<{link}>", ""]
            lines += [f"| claim | {' | '.join(found.models)} | notebook |", "| --- " * (len(found.models) + 2) + "|"]
        cells = [_cell(claim, found, model) for model in found.models]
        notebook = f"{{doc}}`{claim.notebook[:2]} <notebooks/{claim.notebook}>`, {_call(claim)}"
        lines.append(f"| **{claim.text}** *{claim.unit}* | {' | '.join(cells)} | {notebook} |")
    return "\n".join(lines).strip()


def _call(claim: Claim) -> str:
    """A function as code, a view of the explorer as its name."""
    return f"`{claim.call}`" if claim.call.islower() else f"view *{claim.call}*"


def _cell(claim: Claim, found: Found, model: str) -> str:
    numbers = found.numbers.get((claim.name, model))
    if numbers is None:
        is_decoder = any(one.decoder_only and (one.name, model) in found.numbers for one in CLAIMS.values())
        return NOTHING if claim.decoder_only and not is_decoder else NOT_MEASURED
    shown = [f"**{verdict(claim, numbers)}**", _number(claim, numbers[0])]
    shown += [f"{one.what}: {_number(claim, one)}" for one in numbers[1:]]
    return "<br>".join(shown)


def _number(claim: Claim, one: Number) -> str:
    scale, digits = (100, 0) if claim.share else (1, 0 if claim.is_count else 2)
    if np.isnan(one.value):
        return one.note or NOTHING
    value = text(scale * one.value, digits) + (" %" if claim.share else "")
    interval = ends(scale * one.low, scale * one.high, digits)
    note = f" ({one.note})" if one.note else ""
    return f"{value}{'' if interval == NOTHING else ' ' + interval}{note}"


def claims_size(found: Found) -> str:
    """How much was measured, as a table in Markdown: model, pairs asked and used, questions, seed, weights.

    Args:
        found: what was measured
    """
    columns = "model", "pairs of each task", "of rendered states, right", "color questions, right", "seed", "weights"
    lines = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for model, (n, seed) in found.given.items():
        used = [_units(found, model, claim) for claim in ("object's tokens", "important patches")]
        weights = f"`{found.fingerprints[model]}`" if found.fingerprints[model] else NOTHING
        lines.append(f"| {' | '.join([model, str(n), *used, str(seed), weights])} |")
    return "\n".join(lines)


def _units(found: Found, model: str, claim: str) -> str:
    numbers = found.numbers.get((claim, model))
    return str(numbers[0].n) if numbers else NOTHING
