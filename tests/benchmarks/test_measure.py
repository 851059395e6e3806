"""The benchmark counts what it says it counts."""

import torch
import torch.nn.functional as F

from vlmtrace.benchmarks import measure


def test_operations_of_a_matrix_product_are_twice_its_size():
    a, b = torch.randn(10, 20), torch.randn(20, 30)
    assert measure.count_operations(lambda: a @ b) == 2 * 10 * 20 * 30


def test_operations_of_fused_attention_are_those_of_its_two_products():
    query, key = torch.randn(1, 4, 6, 8), torch.randn(1, 4, 50, 8)
    counted = measure.count_operations(lambda: F.scaled_dot_product_attention(query, key, key))
    assert counted == 2 * (2 * 4 * 6 * 50 * 8)


def test_operations_of_a_fused_linear_are_those_of_its_product():
    layer, rows = torch.nn.Linear(20, 30), torch.randn(10, 20)
    assert measure.count_operations(lambda: layer(rows)) == 2 * 10 * 20 * 30


def test_a_rate_is_that_of_products():
    assert measure.matmul_rate(torch.device("cpu"), torch.float32, 64, repeats=2) > 0
    assert measure.matmul_seconds(64) > 0
