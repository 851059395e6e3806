"""All edges are timed beside heads and hooked runs, and compared with the latter."""

import pytest

from vlmtrace.benchmarks import edges, tables
from vlmtrace.models.edges.wiring import edges_of


@pytest.mark.medium
def test_every_turn_has_a_hooked_run_even_if_fewer_are_asked_for(random_blip, random_pairs, monkeypatch):
    monkeypatch.setattr(edges, "TURNS", 3)
    assert edges.all_edges(random_blip, random_pairs.iloc[[0]], sampled=1)["hooked_seconds"] > 0


@pytest.mark.medium
def test_edges_are_those_of_hooked_runs(random_blip, random_pairs, monkeypatch):
    monkeypatch.setattr(edges, "TURNS", 2)
    found = edges.all_edges(random_blip, random_pairs.iloc[[0]], sampled=8)
    assert found["edges"] == len(edges_of(random_blip))
    assert found["heads"] >= 3 * 4 * 9, "the heads of the cross-attention at each of nine positions are among them"
    assert found["largest_difference"] <= 1e-4 < found["largest_effect"]
    times = found["hooked_seconds"] * found["edges"] / found["seconds"]
    assert found["times_faster_than_hooked"] == pytest.approx(times)
    assert found["times_the_heads"] == pytest.approx(found["seconds"] / found["heads_seconds"])
    text = tables.render({"edges": {"random": found}})
    assert "All edges of one pair" in text and f"{found['edges']:,}" in text
