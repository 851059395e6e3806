"""A small graph of edges whose ways are known by hand."""

import numpy as np
import pytest

from vlmtrace.methods.edges.graph import EdgeGraph


@pytest.fixture
def graph(random_blip):
    """All edges of a small random BLIP."""
    return EdgeGraph(random_blip)


@pytest.fixture
def drawn_scores(graph):
    """A score for every edge, of both signs."""
    table = graph.table(np.arange(len(graph)))
    return table.assign(score=np.random.default_rng(0).normal(size=len(graph)))
