"""The benchmark counts and compares what it says it does."""

import pytest
import torch
import torch.nn.functional as F

from vlmtrace.benchmarks import bench


def test_operations_of_a_matrix_product_are_twice_its_size():
    a, b = torch.randn(10, 20), torch.randn(20, 30)
    assert bench.count_operations(lambda: a @ b) == 2 * 10 * 20 * 30


def test_operations_of_fused_attention_are_those_of_its_two_products():
    query, key = torch.randn(1, 4, 6, 8), torch.randn(1, 4, 50, 8)
    counted = bench.count_operations(lambda: F.scaled_dot_product_attention(query, key, key))
    assert counted == 2 * (2 * 4 * 6 * 50 * 8)


@pytest.mark.slow
def test_bench_of_a_random_model(random_blip, random_pairs, monkeypatch):
    monkeypatch.setattr(bench, "MATMUL_SIZE", 512)
    found = bench.bench_model(random_blip, random_pairs.iloc[[0]], sampled=8, libraries=False)
    assert found["patches"] == 3 * 4 * 9
    assert found["largest_difference_to_hooked"] <= 1e-4 < found["largest_effect"]
    assert found["largest_difference_at_sites_of_every_module"] <= 1e-4
    assert found["largest_difference_at_quarter_memory"] <= 1e-5
    # At least the states above each patch: 108 patches, on average one layer of 9 positions, 12 × 48² × 2 operations.
    assert found["operations"] > 108 * 9 * 12 * 48**2 * 2
    assert 0 < found["share_of_matmul_rate"] < 1
    text = bench.render({"random": found})
    assert "108 head patches" in text and "published" in text and "hooked" in text
