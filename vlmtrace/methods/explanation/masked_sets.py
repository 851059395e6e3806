"""Sets of tokens that are masked: along the graphs until an answer changes, and at random for comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations, product

import numpy as np
import pandas as pd

from vlmtrace.core.types import Array
from vlmtrace.methods.explanation.token_masking import BATCH

#: From sets of tokens to mask: for each set, the answer's token and the probability of the token to be explained.
Answers = Callable[[Sequence[tuple[int, ...]]], tuple[list[str], list[float]]]


def smallest_change(
    answers: Answers, unmasked_answer: str, candidates: Sequence[tuple[tuple[int, ...], int, float]], max_sets: int
) -> tuple[tuple[int, ...] | None, pd.DataFrame, int]:
    """The first set whose masking changes the answer, and all others of its size.

    Args:
        answers: answers with sets of tokens masked
        unmasked_answer: what is answered with none masked
        candidates: sets in the order to try, smaller before larger, each with a head and a distance
        max_sets: how many are tried
    Returns:
        the set, or None; the sets tried, up to the last of that size; how many more of no larger size there were
    """
    rows: list[tuple] = []
    allowed = candidates[:max_sets]
    size: int | None = None  # of the first that changes the answer
    for first in range(0, len(allowed), BATCH):
        batch = [row for row in allowed[first : first + BATCH] if size is None or len(row[0]) <= size]
        for (chosen, head, distance), name, chance in zip(batch, *answers([row[0] for row in batch]), strict=True):
            if size is not None and len(chosen) > size:
                break
            rows.append((head, len(chosen), distance, chosen, name, chance, name != unmasked_answer))
            if size is None and name != unmasked_answer:
                size = len(chosen)
    found = next((chosen for _, _, _, chosen, _, _, changed in rows if changed), None)
    left = candidates if size is None else [row for row in candidates if len(row[0]) <= size]
    return found, _tried(rows), len(left) - len(rows)


def _tried(rows: list[tuple]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["head", "size", "distance", "tokens", "answer", "probability", "changed"])
    return table.astype({"changed": bool})


def random_sets(kinds: Array, chosen: Sequence[int], n: int, seed: int) -> list[tuple[int, ...]]:
    """Draw sets with as many tokens of each kind as were chosen, none of them chosen.

    Args:
        kinds: (token,), "image" or "text"
        chosen: the tokens that are left out
        n: how many sets
        seed: of the draws
    Returns:
        sets of tokens; none where there are not enough others
    """
    generator = np.random.default_rng(seed)
    wanted = {kind: sum(kinds[i] == kind for i in chosen) for kind in dict.fromkeys(kinds)}
    others = {kind: np.setdiff1d(np.flatnonzero(kinds == kind), list(chosen)) for kind in wanted}
    if not len(chosen) or any(len(others[kind]) < count for kind, count in wanted.items()):
        return []
    draws = [[generator.choice(others[kind], count, replace=False) for kind, count in wanted.items()] for _ in range(n)]
    return [tuple(sorted(int(i) for part in draw for i in part)) for draw in draws]


def blind_sets(kinds: Array, chosen: Sequence[int], n: int, seed: int) -> tuple[list[tuple[int, ...]], int]:
    """Sets that a search without graphs may try: as many tokens of each kind as were chosen, of all tokens.

    Args:
        kinds: (token,), "image" or "text"
        chosen: the tokens whose kinds are taken
        n: how many sets at most
        seed: of the draws
    Returns:
        all such sets where there are no more than n, otherwise n that are drawn independently; and how many there are
    """
    if not len(chosen):
        return [], 0
    found = pd.Series(kinds[list(chosen)]).value_counts()
    pools = {kind: np.flatnonzero(kinds == kind) for kind in found.index}
    possible = math.prod(math.comb(len(pools[kind]), int(count)) for kind, count in found.items())
    if possible <= n:
        parts = product(*(combinations(pools[kind].tolist(), int(count)) for kind, count in found.items()))
        return [tuple(sorted(sum(part, ()))) for part in parts], possible
    generator = np.random.default_rng(seed)
    draws = [
        [generator.choice(pools[kind], int(count), replace=False) for kind, count in found.items()] for _ in range(n)
    ]
    return [tuple(sorted(int(i) for part in draw for i in part)) for draw in draws], possible
