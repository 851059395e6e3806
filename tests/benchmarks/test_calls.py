"""Measured calls, and the models with random weights that they are measured on."""

import pytest
import torch

import vlmtrace as vt
from vlmtrace.benchmarks import measure_calls, random_llava
from vlmtrace.benchmarks.calls import peak_bytes
from vlmtrace.core.errors import VlmtraceError


@pytest.mark.medium
def test_calls_are_measured_under_the_names_of_the_counted_ones():
    from vlmtrace.methods.patching import model_sizes, patching_costs

    model, pair = random_llava(layers=2, width=64, image_size=56), vt.load_pairs("rendered_states", n=1)
    found = measure_calls(model, pair, memory_gb=0.1)
    counted = patching_costs(model_sizes(model, pair))
    assert list(found["call"]) == list(counted["call"])[: len(found)]
    assert (found["effects"] > 0).all() and (found["seconds"] > 0).all() and (found["peak_gb"] > 0).all()


def test_the_peak_is_what_lives_at_once():
    def work():
        for _ in range(3):
            one = torch.ones(250_000)  # a megabyte
            del one

    assert peak_bytes(work, torch.device("cpu")) == 10**6


def test_a_random_model_is_the_same_in_every_number_type_but_for_rounding():
    whole, half = (random_llava(layers=2, width=32, dtype=dtype) for dtype in ("float32", "bfloat16"))
    for name, value in whole.hf.state_dict().items():
        assert torch.equal(value.to(torch.bfloat16), half.hf.state_dict()[name]), name
    other = random_llava(layers=2, width=32, seed=1)
    assert other.fingerprint() != whole.fingerprint()
    with pytest.raises(VlmtraceError, match="number type"):
        random_llava(dtype="int8")
