"""Quantized models: numbers are those of the quantized model, and what reads weights reads what they stand for."""

import json
from importlib.util import find_spec
from itertools import product

import numpy as np
import pytest
import torch
from fixtures.broken_folders import change_weights, refusal, set_entry
from fixtures.quantizable import write_llava

import vlmtrace as vt
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.lens.questions import lens_of
from vlmtrace.models import Patches, randomized
from vlmtrace.models.load_options import QUANTIZATIONS
from vlmtrace.models.sweep import reference
from vlmtrace.models.sweep.rounding import FACTOR, measured_rounding, smallest_difference
from vlmtrace.models.weight_values import is_quantized, weight_of

BLOCK = "language_model"

pytestmark = pytest.mark.medium

#: torchao is no part of the tests' environment: it announces itself whenever transformers is imported.
HAS_TORCHAO = find_spec("torchao") is not None
WAYS = [
    pytest.param(
        name, marks=pytest.mark.skipif("torchao" in name and not HAS_TORCHAO, reason="torchao is not installed")
    )
    for name in QUANTIZATIONS
]


@pytest.fixture(scope="module")
def path(shared_folders):
    return shared_folders.folder("quantizable", write_llava)


@pytest.fixture(scope="module")
def whole(path):
    return vt.load_model(path)


@pytest.fixture(scope="module", params=WAYS)
def quantized(request, path):
    return vt.load_model(path, quantization=request.param)


def test_a_sweep_is_that_of_the_quantized_model(quantized, whole, random_pairs):
    assert is_quantized(quantized.hf) and quantized.uses_fast_sweep and quantized.dtype == torch.float32
    pair = random_pairs.iloc[[0]]
    clean, inputs = (run_inputs(quantized, pair, side) for side in ("clean", "image"))
    ids = quantized.answer_ids(pair["correct_answer"], pair["incorrect_answer"])
    source, base = quantized.trace(clean), quantized.trace(inputs)
    last = inputs["input_ids"].shape[1] - 1
    chosen = list(product(("residual", "mlp", "self_attention"), (0, 2), (3, last)))
    modules, layers, places = map(list, zip(*chosen, strict=True))
    patches = Patches(BLOCK, modules, layers, [None] * len(chosen), torch.tensor([places]))
    fast = quantized.sweep(source, base, inputs, patches, ids, memory=2**26)
    slow = reference.sweep(quantized, source, inputs, patches, ids)
    rounding = measured_rounding(quantized, source, (inputs, clean), patches, ids, slow)
    off = float((fast.correct - slow.correct).abs().max())
    assert off <= max(FACTOR * rounding, smallest_difference(quantized, base.logits)) < 0.5
    expected = vt.patch_modules(whole, pair, blocks=[BLOCK])
    found = vt.patch_modules(quantized, pair, blocks=[BLOCK])
    assert np.corrcoef(expected["logit_diff"], found["logit_diff"])[0, 1] > (
        0.4 if "4bit" in quantized.loading else 0.9
    )
    assert (expected["logit_diff"] - found["logit_diff"]).abs().max() > 1e-3, "nothing was quantized"


def test_a_weight_is_what_its_module_multiplies_with(quantized, whole):
    for name in ("self_attn.o_proj", "mlp.up_proj"):
        module, plain = (model.text.layers[1].get_submodule(name) for model in (quantized, whole))
        weight = weight_of(module)
        assert weight.shape == plain.weight.shape and type(module.weight) is not type(plain.weight)
        rows = torch.randn(64, weight.shape[1], generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = module(rows)
        off = (torch.nn.functional.linear(rows, weight, plain.bias) - expected).norm() / expected.norm()
        assert off < 2e-2, f"{name} is another matrix"
        assert 1e-4 < (weight - plain.weight).norm() / plain.weight.norm() < 0.2


def test_heads_add_up_to_what_attention_writes(quantized, random_pairs):
    row = random_pairs.rename(columns={"clean_image": "image", "clean_prompt": "prompt"}).iloc[0]
    lens = lens_of(quantized, row)
    for layer, added in enumerate(lens.attention[:, lens.at]):
        found = lens.head_outputs(layer).sum(0) + lens.attention_bias(layer)
        assert (found - added).norm() / added.norm() < 5e-2


def test_a_lens_on_weights_that_mean_something_else_is_refused(whole, random_pairs, monkeypatch):
    row = random_pairs.rename(columns={"clean_image": "image", "clean_prompt": "prompt"}).iloc[0]
    codes = "vlmtrace.methods.lens.decomposition.weight_of"
    monkeypatch.setattr(codes, lambda module, name="weight": 127 * module.weight)
    with pytest.raises(vt.VlmtraceError, match=r"heads of layer 0 .* do not add up"):
        lens_of(whole, row)


def test_fingerprints_tell_quantized_weights_apart(quantized, whole, path):
    name = quantized.load_options.quantization
    assert quantized.fingerprint() != whole.fingerprint()
    again = vt.load_model(path, quantization=name, check=False)
    assert quantized.fingerprint() == again.fingerprint()
    assert quantized.loading == f"float32, {name}"


def test_codes_cannot_be_drawn_anew(quantized):
    with pytest.raises(vt.VlmtraceError, match="cannot be drawn anew"):
        randomized(quantized)


@pytest.fixture(scope="module")
def saved(quantized, tmp_path_factory):
    """A checkpoint as the quantized model saves itself."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    quantized.hf.save_pretrained(folder)
    quantized.processor.save_pretrained(folder)
    return folder


def test_a_quantized_checkpoint_is_loaded_as_it_was_saved(quantized, saved, random_pairs):
    again = vt.load_model(saved)
    assert again.fingerprint() == quantized.fingerprint()
    one, other = (vt.patch_modules(m, random_pairs[:1], blocks=[BLOCK], positions=["last"]) for m in (quantized, again))
    np.testing.assert_allclose(one["logit_diff"], other["logit_diff"], atol=1e-3)


def test_what_is_quantized_is_not_quantized_again(saved):
    with pytest.raises(vt.VlmtraceError, match="is quantized already, by"):
        vt.load_model(saved, quantization="bitsandbytes-4bit")


def test_a_configuration_that_does_not_tell_of_codes_is_refused(saved, tmp_path):
    config = json.loads((saved / "config.json").read_text())
    before = (saved / "config.json").read_text()
    del config["quantization_config"]
    (saved / "config.json").write_text(json.dumps(config))
    try:
        assert "does not say how they are quantized" in refusal(saved)
    finally:
        (saved / "config.json").write_text(before)


def test_codes_that_are_not_there_are_missed(copy):
    folder = copy("llava")
    set_entry("config.json", ("quantization_config",), {"quant_method": "bitsandbytes", "load_in_8bit": True})(folder)
    assert "they hold plain numbers, no codes" in refusal(folder)


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "compressed-tensors"])
def test_other_methods_are_refused_by_name(copy, method):
    folder = copy("llava")
    set_entry("config.json", ("quantization_config",), {"quant_method": method, "bits": 4})(folder)
    change_weights(folder, lambda tensors: tensors.update(extra=torch.zeros(3, dtype=torch.int32)))
    assert f"is quantized by {method}, which is not supported" in refusal(folder)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_codes_go_with_half_precision(path, dtype):
    model = vt.load_model(path, dtype=dtype, quantization="bitsandbytes-4bit")
    assert str(model.dtype) == f"torch.{dtype}" and model.uses_fast_sweep


def test_blip_is_patched_by_hooks_then(model_store):
    with pytest.warns(UserWarning, match="quantized or on several devices"):
        model = vt.load_model(model_store.path("random_blip"), quantization="bitsandbytes-4bit")
    assert not model.uses_fast_sweep
