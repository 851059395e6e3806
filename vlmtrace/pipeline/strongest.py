"""The run's strongest findings as sentences, with the numbers and the pair that show each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from vlmtrace.core.schema import HEAD
from vlmtrace.display.numbers import count, interval, number
from vlmtrace.display.sentences import role_in_words
from vlmtrace.display.wording import readable
from vlmtrace.methods.evaluation.selection import USE
from vlmtrace.methods.knockout.windows import layers_in_words
from vlmtrace.pipeline.candidates import (
    Candidate,
    after_vision,
    head_candidates,
    knockout_candidates,
    module_candidates,
    region_candidates,
    strongest_first,
)
from vlmtrace.pipeline.runs import Run

#: How many findings the first screen shows.
AT_MOST = 3

#: What the number of heads together is a share of: the circuit table measures the same heads otherwise.
OF_EACH_GAP = (
    "Measured by copying their clean outputs into the corrupt run, as a share of each pair's own gap; "
    "the verdict's number is a share of what all heads do."
)

#: How many heads a sentence names.
NAMED_HEADS = 4

#: Regions of the image as sentences name them.
_REGIONS = {"object": "the object", "distractor": "the distractor", "background": "the background"}


def strongest_findings(run: Run, tasks: Sequence[str], selected: pd.DataFrame) -> dict[str, Any]:
    """Choose the run's strongest findings by a rule: of each kind the candidate whose effect is surest to be large.

    Args:
        run: whose tables are read
        tasks: those that were analyzed
        selected: rows of all tasks; without a column split_use nothing can be measured on other pairs

    Returns:
        findings (at most three, the strongest first: sentence, beside, kind, task, corruption, place, the numbers of
        `Candidate.measured`, effects, control and pair, the sample_id of a typical pair), candidates (all, as rows of a
        table), kinds (how many kinds were compared), regions_within (the block in which regions of the image were
        patched, where it is one that reads them itself, so that they are not compared; otherwise "")
    """
    candidates = strongest_first(_candidates(run, tasks, selected))
    best: dict[str, Candidate] = {}
    for one in candidates:
        if one.counts:
            best.setdefault(one.kind, one)
    chosen = list(best.values())[:AT_MOST]
    return {
        "findings": [_told(run, one, candidates, selected) for one in chosen],
        "candidates": [
            {"task": one.task, "corruption": one.corruption, "kind": one.kind, "what": what(one), **one.measured}
            for one in candidates
        ],
        "kinds": len({one.kind for one in candidates}),
        "regions_within": _regions_within(run, tasks),
    }


def _regions_within(run: Run, tasks: Sequence[str]) -> str:
    """The block that holds the regions, if no row of any task is of what the vision encoder hands on."""
    tables = [
        table for task in tasks if run.path("regions", task).is_file() and len(table := run.table("regions", task))
    ]
    if not tables or any(len(after_vision(table)) for table in tables):
        return ""
    return str(tables[0]["block"].iloc[0])


def _candidates(run: Run, tasks: Sequence[str], selected: pd.DataFrame) -> list[Candidate]:
    if USE not in selected:
        return []
    heads, curves = (
        run.table(name) if run.path(name).is_file() else pd.DataFrame() for name in ("heads", "faithfulness")
    )
    found = [one for one in head_candidates(heads, curves) if one.task in tasks]
    for task in tasks:
        use = selected[selected["task"] == task].drop_duplicates("sample_id").set_index("sample_id")[USE]
        for name, made in (
            ("module_patching", module_candidates),
            ("regions", region_candidates),
            ("knockouts", knockout_candidates),
        ):
            if run.path(name, task).is_file():
                found += made(run.table(name, task), use, task)
    return found


def what(one: Candidate) -> str:
    """Say what was patched, without numbers.

    Args:
        one: a candidate

    Returns:
        the words, which may begin a sentence
    """
    place = one.place
    if one.kind == "heads":
        return heads_in_words(place["heads"])
    block = readable(place["block"])
    where = f"layer {place['layer']} of the {block}"
    if one.kind == "module":
        return f"The {readable(place['module'])} in {where}, at {role_in_words(place['token_role'])},"
    role = str(place["token_role"])
    if one.kind == "region":
        return f"The image patches of {_REGIONS[role]}, after layer {place['layer']}, the last of the {block},"
    if "→" in role:
        seen, reader = (part.strip() for part in role.split("→"))
        where = f"{layers_in_words(place.get('layers', [place['layer']]), place['layer'])} of the {block}"
        return f"Cutting the attention of the {'prompt' if reader == 'all' else reader} to the {seen} in {where}"
    return f"Replacing the image tokens of {_REGIONS[role]} by their mean"


def heads_in_words(heads: Sequence[dict[str, Any]]) -> str:
    """Name heads, the first of them one by one.

    Args:
        heads: module, layer and head of each, the strongest first

    Returns:
        the words

    Example:
        >>> head = {"module": "cross_attention", "layer": 3}
        >>> heads_in_words([{**head, "head": 6}, {**head, "head": 1}])
        'Two cross-attention heads (3.6 and 3.1)'
    """
    modules = {head["module"] for head in heads}
    one_kind = len(modules) == 1
    names = [
        f"{head['layer']}.{head['head']}" if one_kind else f"{readable(head['module'])} {head['layer']}.{head['head']}"
        for head in heads
    ]
    if len(names) > NAMED_HEADS + 1:
        names = [*names[:NAMED_HEADS], f"{len(names) - NAMED_HEADS} more"]
    listed = " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
    said = count(len(heads), f"{readable(next(iter(modules)))} head" if one_kind else "head")
    return f"{said[0].upper()}{said[1:]} ({listed})"


def where_heads_act(head_patching: pd.DataFrame) -> str:
    """Find the tokens at which heads have more than half of their effect.

    Args:
        head_patching: rows of these heads, of one corruption

    Returns:
        their names; "" where the effects do not add up to something positive, or more than two tokens are needed
    """
    by_pair = head_patching.groupby(["token_role", "sample_id"], observed=True)["patching_effect"].sum()
    sums = by_pair.groupby("token_role", observed=True).sum().sort_values(ascending=False)
    if sums.empty or sums.sum() <= 0:
        return ""
    enough = (sums.cumsum() <= sums.sum() / 2).sum() + 1
    return " and ".join(role_in_words(role) for role in sums.index[:enough]) if enough <= 2 else ""


def _told(run: Run, one: Candidate, candidates: Sequence[Candidate], selected: pd.DataFrame) -> dict[str, Any]:
    numbers = one.measured
    subject = what(one)
    if one.kind == "heads" and (where := _reading(run, one, selected)):
        subject += f", reading mostly at {where},"
    plural = one.kind == "region" or len(one.place.get("heads", [])) > 1
    does = {True: ("bring back", "take away"), False: ("brings back", "takes away")}[plural][one.kind == "knockout"]
    effect = f"{number(numbers['mean'])} {interval(numbers['low'], numbers['high'])}"
    under = "" if one.corruption == "image" else f", {one.corruption} corruption"
    return {
        "sentence": f"{subject} {does} {effect} of the gap in {readable(one.task)}{under}.",
        "beside": _beside(one, candidates),
        "kind": one.kind,
        "task": one.task,
        "corruption": one.corruption,
        "place": one.place,
        "effects": one.effects,
        "control": one.control,
        "pair": typical_pair(one.effects),
        **numbers,
    }


def _reading(run: Run, one: Candidate, selected: pd.DataFrame) -> str:
    """Where the heads of a candidate act, on the verify pairs."""
    if not run.path("head_patching", one.task).is_file():
        return ""
    heads = pd.DataFrame(one.place["heads"])
    mine = one.effects[["sample_id"]].drop_duplicates()
    stored = run.stored("head_patching", one.task).only(mine).only(heads[HEAD])
    rows = stored.read()
    return where_heads_act(rows[rows["corruption"] == one.corruption])


def _beside(one: Candidate, candidates: Sequence[Candidate]) -> str:
    """What a reader must know beside the number: the control, and cases that may be as strong."""
    numbers, said = one.measured, []
    if one.kind == "heads" and not pd.isna(one.control):
        said.append(f"As many random heads of the same modules and layers: {number(one.control)}.")
    others = [other for other in candidates if other.kind == one.kind and other is not one and other.counts]
    close = [other for other in others if other.measured["high"] >= numbers["low"]]
    if close:
        named = "; ".join(_named(other) for other in close[:2])
        more = f"; and {len(close) - 2} more" if len(close) > 2 else ""
        said.append(f"Not told apart from: {named}{more}.")
    elif others:
        said.append(f"Next of its kind: {_named(others[0])}.")
    if one.kind == "heads":
        said.append(OF_EACH_GAP)
    return " ".join(said)


def _named(other: Candidate) -> str:
    """Another candidate with all that tells it from its kind, for there may be one of each module, and its number."""
    subject, measured = what(other).rstrip(","), other.measured
    return (
        f"{subject[0].lower()}{subject[1:]}, {readable(other.task)}, {other.corruption} corruption "
        f"{number(measured['mean'])} {interval(measured['low'], measured['high'])}"
    )


def typical_pair(effects: pd.DataFrame) -> str:
    """Choose the pair whose effect is nearest to the mean: no showpiece.

    Args:
        effects: with the columns sample_id and effect

    Returns:
        its sample_id
    """
    by_pair = effects.groupby("sample_id", sort=False)["effect"].mean()
    return str((by_pair - by_pair.mean()).abs().idxmin())
