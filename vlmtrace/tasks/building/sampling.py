"""Pairs drawn from the candidates of a data set: seeded, without replacement, both option orders equally often."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.tasks.building.row_audit import Filters, refused

#: The filters that a candidate meets while pairs are drawn, in their order.
NEEDED, IMAGE, PROMPT = "among those needed", "images can be used", "prompt can be corrupted"
#: The step of corrupt prompts that cannot be used: their pairs are pairs of images alone.
TEXT = "corrupt prompt fits the clean one"


#: Candidates of a category that are fetched together at least.
AHEAD = 4


class Rejected(Exception):
    """A candidate cannot become a pair.

    Args:
        step: the filter that it did not pass
        reason: why
    """

    def __init__(self, step: str, reason: str):
        super().__init__(reason)
        self.step, self.reason = step, reason


Row = dict[str, Any]
#: From a candidate, whether its correct option stands first, and a generator of its own, to a row of the pairs table.
Build = Callable[[Row, bool, np.random.Generator], Row]
#: Makes ready what candidates need, such as their images.
Fetch = Callable[[Sequence[Row]], None]


def digest(*words: object) -> str:
    """A short name for some words, the same on every machine.

    >>> digest("mit_states", 3)
    'ee35c6159d'
    """
    return hashlib.sha256("\n".join(map(str, words)).encode()).hexdigest()[:10]


def draw(
    candidates: pd.DataFrame,
    n: int,
    seed: int,
    build: Build,
    filters: Filters,
    *,
    unit: str,
    steps: Sequence[str] = (IMAGE, PROMPT),
    fetch: Fetch | None = None,
    of_images: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Build up to n pairs, each from a candidate of its own.

    Categories take turns, and within a category its labels and the two option orders do. The first pairs are the same
    whatever n is. A candidate that `build` rejects is set aside with the reason, and the next one takes its place.

    Args:
        candidates: one row per candidate: row (its name in the raw data, unique), category, label, and what `build`
            needs; where a column correct_first says in which order its options must stand, it is followed as far as
            balance allows
        n: how many pairs at most
        seed: the same seed gives the same pairs
        build: makes a row of the pairs table, or raises Rejected
        filters: to which the steps are added
        unit: what a candidate is, for the table of filters
        steps: the filters whose names `build` may give when it rejects, in their order
        of_images: by candidate that `build` makes a pair of images alone though it wants a corrupt prompt, why: `build`
            fills it; a further step counts them
        fetch: called with the candidates that come next before they are built, a batch at a time

    Returns:
        the rows that `build` made

    Raises:
        VlmtraceError: no pair can be made
    """
    queues = {
        category: deque(_in_turns(part, seed).to_dict("records"))
        for category, part in candidates.groupby("category", sort=True)
    }
    fetched: set[str] = set()
    against: dict[str, dict[str, str]] = {step: {} for step in steps}
    first = dict.fromkeys(queues, True)
    pairs: list[Row] = []
    for category in _turns(queues):
        while queues[category] and len(pairs) < n:
            if fetch is not None and queues[category][0]["row"] not in fetched:
                share = max(AHEAD, -(-(n - len(pairs)) // len(queues)))
                batch = [row for queue in queues.values() for row in list(queue)[:share] if row["row"] not in fetched]
                fetch(batch)
                fetched |= {row["row"] for row in batch}
            candidate = _next(queues[category], first[category])
            order = bool(candidate.get("correct_first", first[category]))
            generator = np.random.default_rng([seed, int(digest(candidate["row"]), 16)])
            try:
                pairs.append(build(candidate, order, generator))
            except Rejected as error:
                against[error.step][candidate["row"]] = error.reason
                continue
            first[category] = not order
            break
        if len(pairs) == n:
            break
    left = {row["row"]: f"not needed: {n} pairs were asked for" for queue in queues.values() for row in queue}
    filters.add(NEEDED, len(candidates), left, unit)
    reached = len(candidates) - len(left)
    for step in steps:
        filters.add(step, reached, against[step], unit)
        reached -= len(against[step])
    if of_images:
        filters.add(TEXT, len(pairs), of_images, "corrupt prompts")
    if not pairs:
        raise VlmtraceError(f"No pair can be made: of {len(candidates)} {unit}, none is usable: {refused(filters)}.")
    return pd.DataFrame(pairs)


def _in_turns(candidates: pd.DataFrame, seed: int) -> pd.DataFrame:
    """In random order in which the labels take turns, so that a frequent one does not crowd out the others.

    The order comes from each candidate's name, so that a new file leaves that of the others as it is.
    """
    key = candidates["row"].map(lambda row: digest(seed, row))
    rank = key.groupby(candidates["label"]).rank(method="first")
    return candidates.assign(_rank=rank, _key=key).sort_values(["_rank", "_key"]).drop(columns=["_rank", "_key"])


def _turns(queues: dict[Any, deque[Row]]) -> Iterator[Any]:
    """The categories in turns of two, one for each option order, as long as they have candidates."""
    while any(queues.values()):
        for category, queue in queues.items():
            for _ in range(2):
                if queue:
                    yield category


def _next(queue: deque[Row], correct_first: bool) -> Row:
    """Take the next candidate; where their order is fixed, the next one of the wanted order if there is any."""
    if "correct_first" in queue[0]:
        for place, row in enumerate(queue):
            if row["correct_first"] == correct_first:
                del queue[place]
                return row
    return queue.popleft()


def pair_row(
    task: str,
    candidate: Row,
    *,
    category: str,
    images: tuple[str, str],
    prompts: tuple[str, str],
    options: tuple[str, str],
    correct_first: bool,
    **further: Any,
) -> Row:
    """A row of the pairs table. Its sample_id comes from what is in the pair, not from where it was drawn.

    Args:
        task: name of the data set
        candidate: its `row` names it in the raw data
        category: what kind of thing is asked
        images: paths of the clean and of the corrupt image
        prompts: the clean and the corrupt one
        options: the correct and the incorrect one
        correct_first: whether the correct one stands first in the prompt
        further: further columns
    """
    return {
        "sample_id": f"{task}-{digest(candidate['row'], *options)}",
        "task": task,
        "category": category,
        "clean_image": images[0],
        "corrupt_image": images[1],
        "clean_prompt": prompts[0],
        "corrupt_prompt": prompts[1],
        "correct_answer": options[0],
        "incorrect_answer": options[1],
        "correct_first": correct_first,
        **further,
    }
