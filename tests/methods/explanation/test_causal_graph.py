"""The learner on graphs whose covariance is known exactly, partial correlation against regressions."""

import sys

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import vlmtrace as vt
from vlmtrace.methods.explanation.causal_graph import (
    candidate_sets,
    graph_distances,
    independence_p_value,
    learn_graph,
    partial_correlation,
    token_correlations,
    token_tiers,
)

N_SAMPLES = 2000


def correlations_of(n: int, effects: dict[tuple[int, int], float]) -> np.ndarray:
    """Of a linear model x = B x + e with independent e of variance 1: exact, (1 − B)⁻¹ (1 − B)⁻ᵀ scaled."""
    b = np.zeros((n, n))
    for (cause, effect), size in effects.items():
        b[effect, cause] = size
    mixing = np.linalg.inv(np.eye(n) - b)
    covariance = mixing @ mixing.T
    spread = np.sqrt(np.diag(covariance))
    return covariance / np.outer(spread, spread)


def skeleton(edges: pd.DataFrame) -> set[frozenset]:
    return {frozenset(pair) for pair in zip(edges["source"], edges["target"], strict=True)}


def marks(edges: pd.DataFrame) -> dict[tuple[int, int], str]:
    """By (from, to), the mark at `to`."""
    found = {}
    for edge in edges.itertuples():
        found[edge.source, edge.target], found[edge.target, edge.source] = edge.target_mark, edge.source_mark
    return found


GRAPHS = {
    "chain": (5, {(0, 1): 0.8, (1, 2): 0.8, (2, 3): 0.8, (3, 4): 0.8}),
    "fork": (5, {(0, 1): 0.8, (0, 2): 0.7, (0, 3): 0.6, (0, 4): 0.9}),
    "collider": (3, {(0, 2): 0.8, (1, 2): 0.8}),
    "collider with a child": (4, {(0, 2): 0.8, (1, 2): 0.8, (2, 3): 0.9}),
    "six nodes": (6, {(0, 2): 0.8, (1, 2): 0.7, (2, 3): 0.8, (3, 4): 0.9, (5, 4): 0.8}),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_skeletons_are_recovered(name):
    n, effects = GRAPHS[name]
    edges, n_tests = learn_graph(correlations_of(n, effects), N_SAMPLES)
    assert skeleton(edges) == {frozenset(pair) for pair in effects}
    assert n_tests >= n * (n - 1) / 2


def test_nothing_is_oriented_that_cannot_be():
    """Chain and fork have the same independencies whichever way they run: every end stays a circle."""
    for name in ("chain", "fork"):
        edges, _ = learn_graph(correlations_of(*GRAPHS[name]), N_SAMPLES)
        assert set(edges["source_mark"]) == set(edges["target_mark"]) == {"circle"}


def test_colliders_are_oriented():
    for name in ("collider", "collider with a child", "six nodes"):
        edges, _ = learn_graph(correlations_of(*GRAPHS[name]), N_SAMPLES)
        found = marks(edges)
        assert found[0, 2] == found[1, 2] == "arrow" and found[2, 0] == found[2, 1] == "circle"
        if name != "collider":
            assert (found[3, 2], found[2, 3]) == ("tail", "arrow"), "2 causes 3, or 2 would be no collider's child"
    # 3 → 4 ← 5: a second collider below.
    assert found[3, 4] == found[5, 4] == "arrow"


def test_a_hidden_common_cause_is_an_edge_with_two_arrows():
    """0 → 1 ← h → 2 ← 3 with h unseen: 1 <-> 2."""
    effects = {(0, 1): 0.9, (4, 1): 0.9, (4, 2): 0.9, (3, 2): 0.9}
    edges, _ = learn_graph(correlations_of(5, effects)[:4, :4], N_SAMPLES)
    found = marks(edges)
    assert skeleton(edges) == {frozenset(pair) for pair in ((0, 1), (1, 2), (2, 3))}
    assert found[1, 2] == found[2, 1] == "arrow"


def test_a_lower_level_leaves_fewer_edges():
    correlations = correlations_of(3, {(0, 1): 0.8, (1, 2): 0.12})
    sizes = [len(learn_graph(correlations, 300, alpha)[0]) for alpha in (0.2, 1e-3)]
    assert sizes == [2, 1]


# What is known beforehand ------------------------------------------------------------


def test_without_tiers_the_graph_is_that_of_causal_learn():
    """The parts of causal-learn that are called one by one do what its own function does."""
    from causallearn.search.ConstraintBased.FCI import fci as whole

    names = {"TAIL": "tail", "ARROW": "arrow", "CIRCLE": "circle"}
    generator = np.random.default_rng(1)
    for _ in range(8):
        n = 7
        mixing = np.eye(n) + np.tril(generator.normal(size=(n, n)) * (generator.random((n, n)) < 0.4), -1)
        data = (generator.normal(size=(400, n)) @ mixing.T)[:, :6]
        graph, _ = whole(data, "fisherz", 0.01, show_progress=False, node_names=[str(i) for i in range(6)])
        expected = {}
        for edge in graph.get_graph_edges():
            first, second = (int(node.get_name()) for node in (edge.get_node1(), edge.get_node2()))
            expected[second, first] = names[edge.get_endpoint1().name]
            expected[first, second] = names[edge.get_endpoint2().name]
        edges, _ = learn_graph(np.corrcoef(data.T), 400)
        assert marks(edges) == expected


def test_a_later_token_is_no_cause_of_an_earlier_one():
    """A chain, whose direction nothing tells, runs forwards; a common cause outside stays possible: the tail does not.

    Without tiers, 2 of 0 → 2 ← 1, 2 → 3 is a cause of 3. Told that 3 comes first, it cannot be.
    """
    edges, _ = learn_graph(correlations_of(*GRAPHS["chain"]), N_SAMPLES, tiers=range(5))
    found = marks(edges)
    assert all(found[i, i + 1] == "arrow" for i in range(4))
    assert found[1, 0] == "circle", "0 may be a cause of 1, or both may have one: nothing tells"
    assert [found[i + 1, i] for i in range(1, 4)] == ["tail"] * 3, "1 is no collider, so it is a cause of 2"
    correlations = correlations_of(*GRAPHS["collider with a child"])
    free, _ = learn_graph(correlations, N_SAMPLES)
    assert (marks(free)[3, 2], marks(free)[2, 3]) == ("tail", "arrow")
    told, _ = learn_graph(correlations, N_SAMPLES, tiers=[1, 1, 1, 0])
    assert marks(told)[3, 2] == "arrow", "2 comes later than 3 and is said to cause it"


def test_tiers_follow_from_what_attention_can_see():
    causal = np.tril(np.ones((1, 5, 5)))
    assert token_tiers(causal).tolist() == [0, 1, 2, 3, 4]
    assert token_tiers(np.ones((2, 4, 4))).tolist() == [0] * 4, "an encoder's tokens have no order"
    prefix = causal.copy()
    prefix[0, :3, :3] = 1  # the image sees itself
    assert token_tiers(prefix).tolist() == [0, 0, 0, 3, 4]
    one_head = np.concatenate([causal, prefix])
    assert token_tiers(one_head).tolist() == [0, 0, 0, 3, 4], "what one head sees is possible"


# Correlations ------------------------------------------------------------


def test_partial_correlation_is_that_of_what_regressions_leave():
    generator = np.random.default_rng(0)
    data = generator.normal(size=(200, 6)) @ generator.normal(size=(6, 6))
    data -= data.mean(0)
    for x, y, given in ((0, 1, ()), (2, 5, (1,)), (3, 0, (1, 2, 4)), (4, 5, (0, 1, 2, 3))):
        left = []
        for column in (x, y):
            design = data[:, list(given)]
            fit = np.linalg.lstsq(design, data[:, column], rcond=None)[0] if given else np.zeros(0)
            left.append(data[:, column] - design @ fit)
        expected = np.corrcoef(*left)[0, 1]
        assert partial_correlation(np.corrcoef(data.T), x, y, given) == pytest.approx(expected, abs=1e-10)


def test_p_value_counts_the_degrees_of_freedom():
    """r = 0.3 of 50 samples given 2: z = √(50 − 2 − 3)·artanh 0.3 = 2.0764, two-sided 0.0379."""
    assert independence_p_value(0.3, 50, 2) == pytest.approx(2 * norm.sf(2.0764), abs=1e-4)
    assert independence_p_value(0.0, 50, 2) == 1.0
    assert independence_p_value(0.01, 5, 2) == 0.0, "without a degree of freedom nothing counts as independent"


def test_what_the_given_determine_is_independent_of_all():
    correlations = np.array([[1, 1, 0.5], [1, 1, 0.5], [0.5, 0.5, 1]])
    assert partial_correlation(correlations, 0, 2, (1,)) == 0.0
    twice = np.array([[1, 0.5, 0.3, 0.3], [0.5, 1, 0.4, 0.4], [0.3, 0.4, 1, 1], [0.3, 0.4, 1, 1]])
    assert partial_correlation(twice, 0, 1, (2, 3)) == pytest.approx(partial_correlation(twice, 0, 1, (2,)))


def test_correlations_by_hand():
    """Rows (1, 0) and (½, ½) have lengths 1 and √½ and a product of ½."""
    found = token_correlations(np.array([[1, 0], [0.5, 0.5]]))
    np.testing.assert_allclose(found, [[1, 0.5**0.5], [0.5**0.5, 1]])


# Degenerate cases ------------------------------------------------------------


def test_one_token_has_no_edges():
    edges, n_tests = learn_graph(np.ones((1, 1)), N_SAMPLES)
    assert edges.empty and n_tests == 0
    assert graph_distances(edges, 1, 0).tolist() == [0] and candidate_sets(np.zeros(1), 3) == []


def test_a_head_that_looks_at_one_token_has_no_graph():
    attention = np.zeros((4, 6))
    attention[:, 2] = 1
    with pytest.raises(vt.VlmtraceError, match="correlations of 4 tokens are singular"):
        learn_graph(token_correlations(attention), N_SAMPLES)
    with pytest.raises(vt.VlmtraceError, match=r"most alike are text red and text blue, r = 1\.0000"):
        learn_graph(np.ones((2, 2)), N_SAMPLES, names=["text red", "text blue"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"alpha": 0}, "alpha=0 is not a level"),
        ({"alpha": 1.0}, "alpha=1.0 is not a level"),
        ({"n_samples": 3}, "n_samples=3 leaves a test no degree"),
        ({"max_tests": 4}, "takes more than 4 tests"),
    ],
)
def test_bad_options_get_a_sentence(options, sentence):
    with pytest.raises(vt.VlmtraceError, match=sentence):
        learn_graph(correlations_of(*GRAPHS["chain"]), **{"n_samples": N_SAMPLES, **options})


def test_attention_to_nothing_gets_a_sentence():
    with pytest.raises(vt.VlmtraceError, match="Token 1 attends to nothing"):
        token_correlations(np.array([[1, 0], [0, 0.0]]))


def test_nothing_is_printed_and_the_numbers_stay(capsys):
    """causal-learn prints some of what it does; two calls share nothing."""
    tables = [learn_graph(correlations_of(*GRAPHS["six nodes"]), N_SAMPLES)[0] for _ in range(2)]
    other, _ = learn_graph(correlations_of(*GRAPHS["chain"]), N_SAMPLES)
    assert tables[0].equals(tables[1]) and len(other) == 4
    assert capsys.readouterr().out == ""


def test_no_window_toolkit_comes_along():
    learn_graph(np.eye(3), N_SAMPLES)
    assert "causallearn" in sys.modules and not {"tkinter", "PyQt5", "torchvision"} & set(sys.modules)


# Distances ------------------------------------------------------------


def edges_of(*edges):
    return pd.DataFrame(edges, columns=["source", "target", "source_mark", "target_mark"])


def test_d_separators_go_through_colliders_and_triangles_only():
    """0 is the root. 1 is a collider between 0 and 2: 2 is in reach. 3 is none between 0 and 4: 4 is not.

    0, 5, 6 and 5, 6, 7 are triangles: 7 is reached over both 5 and 6, not over one of them.
    """
    edges = edges_of(
        (0, 1, "arrow", "arrow"), (2, 1, "circle", "arrow"),
        (0, 3, "circle", "circle"), (3, 4, "circle", "circle"),
        (0, 5, "circle", "circle"), (0, 6, "circle", "circle"), (5, 6, "circle", "circle"),
        (5, 7, "circle", "circle"), (6, 7, "circle", "circle"),
    )  # fmt: skip
    separators = {"paths": "d-separators"}
    # 0 – 5 – 6 – 7: at 5 a triangle with 0 and 6, at 6 a triangle with 5 and 7.
    assert graph_distances(edges, 9, 0, **separators).tolist() == [0, 1, 2, 1, np.inf, 1, 1, 3, np.inf]
    assert graph_distances(edges, 9, 0, 2, **separators).tolist() == [0, 1, 2, 1, np.inf, 1, 1, np.inf, np.inf]
    assert graph_distances(edges, 9, 0).tolist() == [0, 1, 2, 1, 2, 1, 1, 2, np.inf]
    assert graph_distances(edges, 9, 0, radius=0).tolist() == [0, *[np.inf] * 8]
    with pytest.raises(vt.VlmtraceError, match="Unknown kind of paths 'all'"):
        graph_distances(edges, 9, 0, paths="all")


def test_smaller_sets_come_first_and_nearer_ones_before_farther():
    sets = candidate_sets(np.array([0, 2, 1, np.inf, 1]), 2)
    assert sets == [(2,), (4,), (1,), (2, 4), (1, 2), (1, 4)]
