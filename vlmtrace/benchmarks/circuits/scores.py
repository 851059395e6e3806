"""How well scores rank what is true: area under the ROC curve, precision at the true size, the share that is found.

Shapes: (draw, n) scores of n nodes or edges; −inf where a method gives none.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from vlmtrace.core.types import Array


def area_under_roc(scores: Array, true: Array) -> Array:
    """Chance that one drawn of the true ones has a larger score than one drawn of the others; a tie counts one half.

    By ranks (Mann and Whitney; Hanley and McNeil 1982, https://doi.org/10.1148/radiology.143.1.7063747).

    Args:
        scores: (draw, n)
        true: (n,) bool, some of them and not all

    Returns:
        (draw,)

    >>> area_under_roc(np.array([[3.0, 1.0, 2.0, 2.0]]), np.array([True, False, True, False]))
    array([0.875])
    """
    n_true, n_false = int(true.sum()), int((~true).sum())
    ranks = rankdata(scores, axis=1)[:, true].sum(1)
    return (ranks - n_true * (n_true + 1) / 2) / (n_true * n_false)


def share_among_first(scores: Array, wanted: Array, k: int) -> Array:
    """Expected share of the wanted ones that are among the k with the largest scores, ties in random order.

    Args:
        scores: (draw, n)
        wanted: (n,) bool, not none
        k: how many come first, from 1 to n

    Returns:
        (draw,). Of all true ones, and as many first: the precision at the true size

    >>> share_among_first(np.array([[3.0, 2.0, 2.0, 1.0]]), np.array([True, True, False, False]), 2)
    array([0.75])
    """
    last = -np.sort(-scores, axis=1)[:, [k - 1]]  # the score of the one that comes in last
    above, tied = scores > last, scores == last
    chance = above + tied * ((k - above.sum(1, keepdims=True)) / tied.sum(1, keepdims=True))
    return chance[:, wanted].sum(1) / wanted.sum()


def share_of_largest(scores: Array, wanted: Array) -> Array:
    """Mean score of the wanted ones, as a share of the largest of all; what is below 0, or has none, counts as 0.

    Args:
        scores: (draw, n)
        wanted: (n,) bool, not none

    Returns:
        (draw,); 0 where no score is above 0

    >>> share_of_largest(np.array([[4.0, 1.0, -np.inf]]), np.array([False, True, True]))
    array([0.125])
    """
    scores = np.maximum(scores, 0)
    largest = scores.max(1)
    return np.divide(scores[:, wanted].mean(1), largest, out=np.zeros(len(scores)), where=largest > 0)
