"""The table of `docs/methods/prior.md`, from what `docs/measure_planted_prior.py --docs` has written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

MEASURED = Path(__file__).resolve().parents[1] / "measured" / "planted_prior.json"
HEADER = (
    "model",
    "pairs",
    "priors of all combinations",
    "the most probable answer, where the picture does not show it",
    "the shown color stays ahead from behind layer (pairs)",
    "right answers of the last third that steering turns (random directions)",
    "right answers to other questions: before, after",
)
#: Of fewer pairs a layer is left out.
WORTH_NAMING = 0.1


def part() -> str:
    """The table."""
    return priors_table(json.loads(MEASURED.read_text(encoding="utf-8")))


def priors_table(found: Sequence[Mapping[str, Any]]) -> str:
    """What was found in each model, as a table in Markdown.

    Args:
        found: by model, of `found_in`
    """
    lines = [f"| {' | '.join(HEADER)} |", "| --- " * len(HEADER) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(_cells(one))} |" for one in found)])


def _cells(one: Mapping[str, Any]) -> list[str]:
    which = ", ".join(sorted({f"{prior['option']} {prior['noun']}" for prior in one["priors"]}))
    top = one["top"]
    ahead = [f"{layer}: {share:.0%}" for layer, share in one["ahead"] if share >= WORTH_NAMING]
    return [
        one["model"],
        str(one["pairs"]),
        f"{len(one['priors'])} of {one['n_tried']}{f', all of them: {which}' if which else ''}",
        f"{top['option']} {top['noun']} ({top['category']}): {_share(top['share'])} "
        f"[{_share(top['share_low'])}, {_share(top['share_high'])}]",
        "; ".join(ahead) or "nowhere",
        "<br>".join(_steered(one["steered"])),
        "<br>".join(_others(one["others"])),
    ]


def _steered(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    sides: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        sides.setdefault(row["side"], {})[row["direction"]] = row
    lines = []
    for side, directions in sides.items():
        mine = directions["difference"]
        where = f"*{side}*, behind layer {mine['layer']}, factor {mine['factor']:g}"
        if mine["turned"] is None:
            lines.append(f"{where}: no answer was right")
            continue
        random = directions.get("random", {}).get("turned")
        beside = "" if random is None else f" ({_percent(random)})"
        between = f"[{_percent(mine['turned_low'])}, {_percent(mine['turned_high'])}]"
        lines.append(f"{where}: {_percent(mine['turned'])} {between} of {mine['n_right']}{beside}")
    return lines


def _others(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return [
        f"*{row['side']}*, {row['task'].removeprefix('rendered_')}: {_percent(row['before'])}, {_percent(row['after'])}"
        for row in rows
    ]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"
