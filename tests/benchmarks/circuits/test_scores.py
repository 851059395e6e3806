"""Areas, precisions and shares, by hand and by counting pairs."""

import numpy as np
import pytest

from vlmtrace.benchmarks.circuits.scores import area_under_roc, share_among_first, share_of_largest


def counted(scores, true):
    """The area, pair by pair."""
    won = [(a > b) + 0.5 * (a == b) for a in scores[true] for b in scores[~true]]
    return sum(won) / len(won)


@pytest.mark.parametrize(
    ("scores", "true", "area"),
    [
        ([4, 3, 2, 1], [1, 1, 0, 0], 1.0),
        ([1, 2, 3, 4], [1, 1, 0, 0], 0.0),
        ([1, 1, 1, 1], [1, 0, 0, 0], 0.5),
        ([3, 1, 2, 0], [1, 1, 0, 0], 0.75),
        ([5, -np.inf, -np.inf, 1], [1, 1, 0, 0], 0.625),  # what has no score ties at the end
    ],
)
def test_areas_by_hand(scores, true, area):
    found = area_under_roc(np.array([scores], float), np.array(true, bool))
    assert found.tolist() == [area]


def test_areas_are_those_of_counted_pairs():
    rng = np.random.default_rng(0)
    scores, true = rng.integers(0, 6, size=(20, 40)).astype(float), rng.random(40) < 0.2  # many ties
    assert area_under_roc(scores, true) == pytest.approx([counted(row, true) for row in scores])


@pytest.mark.parametrize(
    ("scores", "wanted", "k", "share"),
    [
        ([4, 3, 2, 1], [1, 1, 0, 0], 2, 1.0),
        ([4, 3, 2, 1], [0, 0, 1, 1], 2, 0.0),
        ([4, 3, 2, 1], [1, 0, 1, 0], 2, 0.5),
        ([0, 0, 0, 0], [1, 1, 0, 0], 2, 0.5),  # all alike: as by chance, wherever the true ones stand
        ([2, 1, 1, 1], [1, 1, 0, 0], 2, (1 + 1 / 3) / 2),
        ([1, -np.inf, -np.inf, -np.inf], [0, 1, 0, 0], 2, 1 / 3),
        ([1, 1, 1, 0], [1, 1, 1, 0], 3, 1.0),
    ],
)
def test_shares_by_hand(scores, wanted, k, share):
    found = share_among_first(np.array([scores], float), np.array(wanted, bool), k)
    assert found == pytest.approx([share])


def test_ties_are_broken_in_expectation():
    rng = np.random.default_rng(1)
    scores, wanted, k = rng.integers(0, 3, size=12).astype(float), np.arange(12) < 4, 4
    drawn = []
    for _ in range(4000):
        order = np.lexsort((rng.random(12), -scores))[:k]
        drawn.append(wanted[order].sum() / wanted.sum())
    assert share_among_first(scores[None], wanted, k)[0] == pytest.approx(np.mean(drawn), abs=0.015)


def test_scores_as_shares_of_the_largest():
    wanted = np.array([False, True, True])
    scores = np.array([[2.0, 1.0, 1.0], [2.0, -1.0, 1.0], [-1.0, -1.0, -2.0], [0.0, 0.0, 3.0]])
    assert share_of_largest(scores, wanted).tolist() == [0.5, 0.25, 0.0, 0.5]
