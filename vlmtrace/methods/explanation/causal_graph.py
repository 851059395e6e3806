"""A causal graph of tokens from one head's attention, in which sets of tokens are ordered for the search.

After CLEANN (Rohekar, Gurwicz and Nisimov 2023, "Causal interpretation of self-attention in pre-trained transformers",
https://arxiv.org/abs/2310.20307).
A head's output Z = A V is read as a linear structural model of the tokens, whose covariance is A Aᵀ where the values V
are uncorrelated. Constraint-based discovery makes of its partial correlations a partial ancestral graph: edges
whose ends are a tail, an arrow, or a circle (either), <-> for a common cause outside the graph. The paper's algorithm
is ICD (Rohekar et al. 2021, https://arxiv.org/abs/2111.04095), and so is that of LVLM-Interpret; here it is FCI, which
has the same answer where all tests are right and may have another one where they are not. FCI is told that what a model
may not attend to is no cause: in a causal decoder a later token does not cause an earlier one (`token_tiers`).
From the answer's node outwards, sets of tokens are masked from the model until one changes the answer.

What masking does is measured (`search`), and so is what masking as many other tokens does; the graph only
says in which order to try. Read it as a description of one attention matrix, not as a finding about the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.sparse.csgraph import connected_components
from scipy.stats import norm

from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.types import Array
from vlmtrace.methods.explanation.fci import fci

#: Attention weights have seven digits, and so have correlations made of them: what is smaller is rounding.
ROUNDING = 1e-6

#: Tests that the learner may do: it tries every subset of a token's neighbours, so that a dense graph takes them all.
#: A test takes about a millisecond, the learner's own bookkeeping included.
MAX_TESTS = 5_000


# Correlations ------------------------------------------------------------


def token_correlations(attention: Array) -> Array:
    """Correlations of tokens: A Aᵀ scaled to a diagonal of ones.

    Args:
        attention: A, (token, key)

    Returns:
        (token, token)

    Raises:
        VlmtraceError: a token attends to nothing
    """
    rows = np.asarray(attention, dtype=float)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise VlmtraceError(
            f"Token {int(lengths.argmin())} attends to nothing, so it has no correlation: leave it out."
        )
    return (rows / lengths) @ (rows / lengths).T


def partial_correlation(correlations: Array, x: int, y: int, given: Sequence[int] = ()) -> float:
    """Correlation of two tokens once both are freed of what is linear in the given ones.

    Args:
        correlations: (token, token)
        x: one token
        y: another
        given: those that are conditioned on
    Returns:
        −1 … 1; 0 where the given ones determine x or y, so that nothing is left to be correlated
    """
    pair, rest = [x, y], list(given)
    left = correlations[np.ix_(pair, pair)]
    if rest:
        across = correlations[np.ix_(pair, rest)]
        among = correlations[np.ix_(rest, rest)]
        try:
            left = left - across @ np.linalg.solve(among, across.T)
        except np.linalg.LinAlgError:
            left = left - across @ np.linalg.pinv(among, hermitian=True) @ across.T
    variances = np.diag(left)
    if (variances <= ROUNDING).any():
        return 0.0
    return float(np.clip(left[0, 1] / np.sqrt(variances.prod()), -1, 1))


def independence_p_value(correlation: float, n_samples: int, n_given: int) -> float:
    """Two-sided p-value that a partial correlation is 0, by Fisher's z with n_samples − n_given − 3 degrees of freedom.

    Args:
        correlation: partial, −1 … 1
        n_samples: how many samples it counts as
        n_given: how many tokens are conditioned on
    Returns:
        0 … 1; 0 where no degree of freedom is left: what cannot be tested counts as dependent and keeps its edge
    """
    freedom = n_samples - n_given - 3
    if freedom <= 0 or abs(correlation) >= 1:
        return 0.0
    return float(2 * norm.sf(np.sqrt(freedom) * abs(np.arctanh(correlation))))


# The graph ------------------------------------------------------------


def token_tiers(attention: Array) -> Array:
    """What attention leaves possible: a token of a higher tier cannot be a cause of one of a lower tier.

    Under a causal mask each token is a tier of its own. Tokens that can attend to each other, directly or by way of
    others (all of an encoder's, the image's where a decoder lets them), share one.

    Args:
        attention: (head, token, token), rows are queries
    Returns:
        (token,): the first token of the tier
    """
    seen = (np.asarray(attention) > 0).any(axis=0)
    _, group = connected_components(seen, directed=True, connection="strong")
    _, first = np.unique(group, return_index=True)
    return first[group]


class _TooManyTests(Exception):
    """The learner has used up its tests."""


def learn_graph(
    correlations: Array,
    n_samples: int,
    alpha: float = 0.01,
    max_tests: int = MAX_TESTS,
    names: Sequence[str] | None = None,
    tiers: Sequence[int] | None = None,
) -> tuple[pd.DataFrame, int]:
    """Learn a partial ancestral graph from correlations, by FCI (Spirtes et al. 2000; see `fci`).

    Args:
        correlations: (token, token)
        n_samples: how many samples the correlations count as
        alpha: level of the tests; a higher one keeps more edges. They are not corrected for their number
        max_tests: the bound on time
        names: of the tokens, for what is said when there is no graph; None: their indices
        tiers: of the tokens (see `token_tiers`): the edge of two unlike tiers has an arrow at the higher one. None:
            nothing is known beforehand
    Returns:
        edges: source, target (indices), source_mark, target_mark ("tail", "arrow", "circle"); and the tests done
    Raises:
        VlmtraceError: alpha or n_samples make no test, the correlations are singular, or the tests do not suffice
    """
    n = len(correlations)
    names = [f"token {i}" for i in range(n)] if names is None else names
    if not 0 < alpha < 1:
        raise VlmtraceError(f"alpha={alpha} is not a level of significance: choose one between 0 and 1.")
    if n_samples < 4:
        raise VlmtraceError(f"n_samples={n_samples} leaves a test no degree of freedom: give at least 4.")
    if n < 2:
        return pd.DataFrame(columns=["source", "target", "source_mark", "target_mark"]), 0
    if np.linalg.eigvalsh(correlations)[0] < ROUNDING:
        off = np.abs(correlations - np.eye(n))
        x, y = sorted(int(i) for i in np.unravel_index(off.argmax(), off.shape))
        raise VlmtraceError(
            f"The correlations of {n} tokens are singular, so no graph tells them apart (most alike are {names[x]} and "
            f"{names[y]}, r = {correlations[x, y]:.4f}): choose another head or layer, or a higher attention threshold."
        )
    done: dict[tuple, float] = {}

    def test(x: int, y: int, given: Sequence[int]) -> float:
        key = (*sorted((x, y)), *given)
        if key not in done:
            if len(done) >= max_tests:
                raise _TooManyTests
            found = partial_correlation(correlations, key[0], key[1], given)
            done[key] = independence_p_value(found, n_samples, len(given))
        return done[key]

    try:
        rows = fci(test, n, alpha, tiers)
    except _TooManyTests:
        raise VlmtraceError(
            f"The graph of {n} tokens takes more than {max_tests} tests, since too many of them depend on each other: "
            "allow fewer tokens, raise the attention threshold, or lower alpha."
        ) from None
    return pd.DataFrame(rows, columns=["source", "target", "source_mark", "target_mark"]), len(done)


def graph_distances(edges: pd.DataFrame, n: int, root: int, radius: int | None = None, paths: str = "any") -> Array:
    """How many edges each token is away from the root.

    Args:
        edges: from `learn_graph`
        n: how many tokens there are
        root: the token that distances are counted from
        radius: the farthest distance searched; None: any
        paths: "any", or "d-separators": only those on which every token between two others has arrows from both or
            lies in a triangle with them (possible d-separators, as in the paper), which often ends at the neighbours
    Returns:
        (n,), float; inf where a token is out of reach
    """
    one_of(paths, ("any", "d-separators"), "kind of paths")
    mark: dict[tuple[int, int], str] = {}  # at the second token's end of the edge between both
    for edge in edges.itertuples():
        mark[edge.source, edge.target], mark[edge.target, edge.source] = edge.target_mark, edge.source_mark
    found = np.full(n, np.inf)
    found[root] = 0
    steps = {(root, token) for start, token in mark if start == root}
    seen = set(steps)
    distance = 1
    while steps and (radius is None or distance <= radius):
        for _, token in steps:
            found[token] = min(found[token], distance)

        def goes_on(start: int, middle: int, end: int) -> bool:
            collides = mark[start, middle] == mark[end, middle] == "arrow"
            return end not in (start, root) and (paths == "any" or collides or (start, end) in mark)

        ways = [(start, middle, end) for start, middle in steps for at, end in mark if at == middle]
        steps = {(middle, end) for start, middle, end in ways if goes_on(start, middle, end)} - seen
        seen |= steps
        distance += 1
    return found


def candidate_sets(distances: Array, max_size: int) -> list[tuple[int, ...]]:
    """Sets of tokens within reach of the root, in the order to try them: the smaller first, of equal size the nearer.

    Args:
        distances: (n,), from `graph_distances`
        max_size: of a set
    """
    reach = [int(i) for i in np.flatnonzero(np.isfinite(distances) & (distances > 0))]
    sets = [chosen for size in range(1, max_size + 1) for chosen in combinations(reach, size)]
    return sorted(sets, key=lambda chosen: (len(chosen), distances[list(chosen)].sum(), chosen))
