"""Costs are compared with those of the first size."""

import pytest

from vlmtrace.benchmarks import tables
from vlmtrace.benchmarks.growth import Size, growth


@pytest.mark.medium
def test_costs_are_multiples_of_the_first(tmp_path):
    growing = {"layers": [Size(1, 2), Size(2, 2)], "pairs": [Size(1, 2), Size(1, 2, pairs=2)]}
    found = growth(tmp_path, growing, width=32)
    assert {(one["family"], one["positions"]) for one in found} == {
        ("BLIP", "all"),
        ("LLaVA", "correct option"),
        ("LLaVA", "spread"),
    }
    for one in found:
        first = one["times_the_first"] == 1
        smallest = one["layers"] == 1 and one["pairs"] == 1
        assert smallest <= first
        heads = 8 * one["layers"] * one["pairs"]
        assert one["patches"] % heads == 0 and one["image_positions"] == 4
    table = tables.growth_table(found)
    assert "layers: 1, 2" in table and "pairs: 1, 2" in table and "| 1, " in table
