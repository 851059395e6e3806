"""Interventions are compared with the same by hooks."""

import pytest

from vlmtrace.benchmarks import tables, ways


@pytest.mark.medium
def test_interventions_are_those_of_hooked_passes(random_blip, random_pairs, monkeypatch):
    monkeypatch.setattr(ways, "TURNS", 1)
    found = ways.fast_ways(random_blip, random_pairs.iloc[:1])
    assert set(found) == {"regions", "attention knock-outs", "joint patches", "whole heads", "sets of heads"}
    for name, one in found.items():
        assert one["rows"] > 0 and one["times_faster"] > 0, name
        assert one["largest_difference"] <= 1e-4, name
        assert name in tables.ways_table({"random": found})


def test_hooks_are_used_within_and_not_after(random_blip):
    assert random_blip.uses_fast_sweep
    with pytest.raises(ValueError), ways.by_hooks(random_blip):
        assert not random_blip.uses_fast_sweep
        raise ValueError
    assert random_blip.uses_fast_sweep
