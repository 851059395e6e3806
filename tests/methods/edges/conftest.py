"""A small graph of edges whose ways are known by hand."""

import numpy as np
import pytest

import vlmtrace as vt
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


@pytest.fixture
def patched_scores(random_blip, random_pairs):
    """What every edge does to the first pair."""
    return vt.edge_scores(vt.patch_edges(random_blip, random_pairs.head(1)))
