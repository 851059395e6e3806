"""The self-check in half precision tells rounding from a fault."""

import re

import pytest
from PIL import Image

import vlmtrace as vt
from vlmtrace.models import self_check
from vlmtrace.models.sweep import decoder_only
from vlmtrace.models.sweep.rounding import rounds_coarsely

pytestmark = pytest.mark.medium

FAMILIES = ["llava", "qwen3_vl", "gemma3", "paligemma2", "internvl"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_rounding_is_no_fault(model_store, name, dtype):
    model = vt.load_model(model_store.path(name), dtype=dtype)
    assert rounds_coarsely(model) and model.uses_fast_sweep


def test_float32_is_compared_as_ever(model_store, monkeypatch):
    monkeypatch.setattr("vlmtrace.models.sweep.self_check.measured_rounding", None)  # nothing asks for it
    vt.load_model(model_store.path("llava"))


@pytest.mark.parametrize(("dtype", "fault"), [("bfloat16", 0.2), ("float16", 0.02)])
def test_a_fault_of_the_size_of_an_effect_is_found(model_store, monkeypatch, dtype, fault):
    """Patched states that are a little off; in float16 by less than a twentieth of the largest logit."""
    model = vt.load_model(model_store.path("llava"), dtype=dtype)
    right = decoder_only.SuffixSweep.enter

    def wrong(self, layer, patches, start):
        states = right(self, layer, patches, start)
        return states + fault * states.roll(1, dims=-1)

    monkeypatch.setattr(decoder_only.SuffixSweep, "enter", wrong)
    with pytest.raises(vt.VlmtraceError, match=r"differ by (\S+) from .* where (\S+) is rounding") as caught:
        self_check(model)
    off, allowed = map(float, re.findall(r"differ by (\S+) from.* where (\S+) is", str(caught.value))[0])
    largest = float(model.answer_logits(model.encode_image(Image.new("RGB", (64, 64)))).abs().max())
    assert allowed < off < largest * (0.05 if dtype == "float16" else 0.1)
