"""A model whose weights partly lie on the disk: the same numbers, and it stays as it is."""

import numpy as np
import pytest
import torch

import vlmtrace as vt
from vlmtrace.methods.lens.contributions import head_contributions
from vlmtrace.methods.lens.questions import lens_of
from vlmtrace.methods.lens.words import stream_vectors, word_scores
from vlmtrace.models import randomized
from vlmtrace.models.weight_values import float_copy, is_offloaded, weight_of

pytestmark = pytest.mark.medium

FAMILIES = ["llava", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3_vl", "gemma3"))]


def with_weights(hf):
    """Modules that hold weights themselves."""
    return [name for name, part in hf.named_modules() if name and any(True for _ in part.parameters(recurse=False))]


def placed(hf, text, vision):
    """Every module with weights on the CPU, but a text layer, a vision layer, the final norm and the unembedding."""
    on_disk = [f"{text}.layers.1", f"{vision}.encoder.layers.1", f"{vision}.blocks.1", f"{text}.norm"]
    on_disk += [] if getattr(hf, "all_tied_weights_keys", None) else ["lm_head"]
    return {name: "disk" if name.startswith(tuple(on_disk)) else "cpu" for name in with_weights(hf)}


@pytest.fixture(scope="module", params=FAMILIES)
def both(request, model_store):
    """A model in memory, and the same with weights on the disk."""
    whole = model_store.shared(request.param)
    device_map = placed(whole.hf, whole.family.text, whole.family.vision)
    return whole, vt.load_model(model_store.path(request.param), device_map=device_map)


def test_sweeps_give_the_same_numbers_and_leave_the_model_as_it_was(both, random_pairs):
    whole, apart = both
    assert is_offloaded(apart.hf) and not is_offloaded(whole.hf) and apart.uses_fast_sweep
    pairs = random_pairs.iloc[[0]]
    wrapped = {name for name, module in apart.hf.named_modules() if "forward" in module.__dict__}
    for _ in range(2):
        for call in (vt.patch_modules, vt.patch_heads):
            expected, found = call(whole, pairs), call(apart, pairs)
            np.testing.assert_allclose(found["logit_diff"], expected["logit_diff"], atol=1e-5)
            assert found["logit_diff"].abs().max() > 1e-3
        assert wrapped == {name for name, module in apart.hf.named_modules() if "forward" in module.__dict__}
    assert is_offloaded(apart.hf), "weights were brought back into the model for good"


@pytest.mark.medium
@pytest.mark.parametrize("name", ["gemma3", "paligemma"])
def test_tied_weights_on_the_disk_count_once(model_store, name):
    """There the unembedding is no longer the same tensor as the embeddings."""
    whole = vt.load_model(model_store.path(name))
    apart = vt.load_model(model_store.path(name), device_map={"": "disk"})
    assert whole.hf.all_tied_weights_keys, "nothing is tied"
    assert apart.fingerprint() == whole.fingerprint()


def test_the_fingerprint_is_the_same_wherever_weights_lie(both):
    whole, apart = both
    assert apart.fingerprint() == whole.fingerprint()


def test_the_lens_reads_weights_from_the_disk(both, random_pairs):
    row = random_pairs.rename(columns={"clean_image": "image", "clean_prompt": "prompt"}).iloc[0]
    lenses = [lens_of(model, row) for model in both]
    np.testing.assert_allclose(*(head_contributions(lens) for lens in lenses), atol=1e-4)
    positions = torch.arange(3)
    for through in ("unembedding", "embedding"):
        scores = [word_scores(lens, stream_vectors(lens, "key", 1)[:3], positions, through) for lens in lenses]
        torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-4)


def test_weights_and_norms_are_read_as_they_are(both):
    whole, _ = both
    one, other = (model.hook_point(vt.models.Site("language_model", "self_attention", 1)).module for model in both)
    assert other.weight.is_meta
    assert torch.equal(weight_of(one), weight_of(other))
    rows = torch.randn(3, whole.hf.config.get_text_config().hidden_size, generator=torch.Generator().manual_seed(0))
    norms = [float_copy(model.final_norm, torch.device("cpu")) for model in both]
    assert torch.equal(norms[0](rows), norms[1](rows)) and torch.equal(norms[0](rows), whole.final_norm(rows))


def test_weights_that_are_not_in_the_model_cannot_be_drawn_anew(both):
    with pytest.raises(vt.VlmtraceError, match="cannot be drawn anew"):
        randomized(both[1])


def test_nan_on_the_disk_is_found(model_store, tmp_path):
    model = model_store.load("llava")
    with torch.no_grad():
        model.text.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    model.hf.save_pretrained(tmp_path)
    model.processor.save_pretrained(tmp_path)
    device_map = placed(model.hf, model.family.text, model.family.vision)
    with pytest.raises(vt.VlmtraceError, match=r"not finite \(.*layers\.1\.mlp\.up_proj\.weight"):
        vt.load_model(tmp_path, device_map=device_map)


def test_blip_is_patched_by_hooks_then(model_store, random_pairs):
    whole = model_store.shared("random_blip")
    device_map = {name: "disk" if ".1." in name else "cpu" for name in with_weights(whole.hf)}
    with pytest.warns(UserWarning, match="quantized or on several devices"):
        apart = vt.load_model(model_store.path("random_blip"), device_map=device_map)
    assert not apart.uses_fast_sweep and apart.fingerprint() == whole.fingerprint()
    tables = [vt.patch_heads(model, random_pairs.iloc[[0]], positions=["correct"]) for model in (whole, apart)]
    np.testing.assert_allclose(*(table["logit_diff"] for table in tables), atol=1e-4)


def test_auto_on_one_device_is_that_device(model_store):
    model = vt.load_model(model_store.path("llava"), device_map="auto")
    assert {parameter.device.type for parameter in model.hf.parameters()} == {model.device.type}
