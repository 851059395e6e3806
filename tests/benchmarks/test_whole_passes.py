"""Ways to do the same patches are timed, and agree."""

import pytest

from vlmtrace.benchmarks import whole_passes


@pytest.mark.medium
def test_the_ways_agree(model_store, random_pairs, monkeypatch):
    monkeypatch.setattr(whole_passes, "TURNS", 1)
    table = whole_passes.ways_of(model_store.shared("llava"), random_pairs.iloc[[0]], n_patches=5).set_index("way")
    hooked = ["hooked passes one by one", "hooked passes, fast products"]
    assert list(table.index) == [*hooked, "whole passes in batches", "fast sweep"]
    assert (table["seconds_per_patch"] > 0).all() and table.loc["fast sweep", "times_the_sweep"] == 1
    assert (table["largest_difference"] <= 1e-4).all() and table.loc[hooked[1], "largest_difference"] == 0
