"""Sweeps of a model whose layers lie on two devices: the same numbers, and no tensor where it cannot be used.

The devices are pretended (`fixtures.pretended_devices`): no several GPUs are needed, nor do they run here.
"""

import numpy as np
import pandas as pd
import pytest
from fixtures.pretended_devices import FIRST, SECOND, Placed, Pretending, place

import vlmtrace as vt
from vlmtrace.methods.lens.questions import lens_of
from vlmtrace.models import weight_values

pytestmark = pytest.mark.medium

HEADS = [("self_attention", 0, 1), ("self_attention", 2, 3)]

CALLS = {
    "modules": lambda model, pairs: vt.patch_modules(model, pairs),
    "heads": lambda model, pairs: vt.patch_heads(model, pairs),
    "regions": lambda model, pairs: vt.patch_regions(model, pairs),
    "whole heads": lambda model, pairs: vt.patch_whole_heads(model, pairs),
    "knockout": lambda model, pairs: vt.knock_out_attention(model, pairs),
    "head sets": lambda model, pairs: vt.patch_head_sets(model, pairs, [HEADS]),
    "ablation": lambda model, pairs: vt.ablate(model, pairs),
    "evaluation": lambda model, pairs: vt.evaluate(model, pairs),
}


def spread(model):
    """Upper text layers and the final norm on the second device, all else on the first."""
    layers = model.text.layers
    for i, layer in enumerate(layers):
        place(layer, SECOND if i >= len(layers) // 2 else FIRST)
    place(model.final_norm, SECOND)
    place(model.hf.get_output_embeddings(), FIRST)
    for layer in model.vision_layers:
        place(layer, FIRST)
    place(model.hf, FIRST)
    model.hf.hf_device_map = {"first": FIRST, "second": SECOND}
    return model


SLOW = [pytest.param("gemma3", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=["llava", *SLOW])
def both(request, model_store):
    return model_store.shared(request.param), spread(model_store.load(request.param))


def test_layers_lie_on_two_devices(both, random_pairs):
    apart = both[1]
    assert apart.devices == [FIRST, SECOND] and apart.device == FIRST
    with Pretending():
        trace = apart.trace(apart.encode([random_pairs["clean_image"][0]], [apart.prompt_text("is this red or blue?")]))
    assert {value.device for value in trace.activations.values()} == {FIRST, SECOND}
    assert isinstance(trace.logits, Placed) and trace.logits.device == FIRST


@pytest.mark.parametrize("name", CALLS)
def test_numbers_are_those_of_one_device(both, random_pairs, name):
    whole, apart = both
    pairs = random_pairs.iloc[[0, 4]]
    expected = CALLS[name](whole, pairs)
    with Pretending():
        found = CALLS[name](apart, pairs)
    numbers = expected.select_dtypes("number").columns
    assert len(expected) > 0
    np.testing.assert_allclose(found[numbers].astype(float), expected[numbers].astype(float), atol=1e-4)
    pd.testing.assert_frame_equal(found.drop(columns=numbers), expected.drop(columns=numbers))


def test_the_lens_is_that_of_one_device(both, random_pairs, monkeypatch):
    known = weight_values.plain
    for module in ("weight_values", "decoder_only"):
        plain = lambda value, of=None: value.detach() if isinstance(value, Placed) else known(value, of)  # noqa: E731
        monkeypatch.setattr(f"vlmtrace.models.{module}.plain", plain)
    row = random_pairs.rename(columns={"clean_image": "image", "clean_prompt": "prompt"}).iloc[0]
    whole, apart = both
    expected = lens_of(whole, row)
    with Pretending():
        found = lens_of(apart, row)
        for layer in range(len(expected.heads)):
            np.testing.assert_allclose(found.head_outputs(layer).cpu(), expected.head_outputs(layer), atol=1e-5)
