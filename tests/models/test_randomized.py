"""A randomized copy: other weights of the same values, and the model itself as it was."""

import copy

import pytest
import torch

import vlmtrace as vt
from vlmtrace.models import randomized


@pytest.fixture(params=["random_blip", "llava"])
def model(request, model_store):
    return model_store.shared(request.param)


def test_every_tensor_keeps_its_values_in_another_order_and_the_model_stays(model):
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    twin = randomized(model, seed=3)
    for name, value in model.hf.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} of the model itself was changed"
    moved = 0
    for name, parameter in twin.hf.named_parameters():
        assert torch.equal(parameter.flatten().sort().values, before[name].flatten().sort().values)
        moved += not torch.equal(parameter, before[name])
    several = [name for name, parameter in twin.hf.named_parameters() if parameter.unique().numel() > 2]
    assert moved >= len(several) > 10, f"only {moved} tensors were moved"
    for name, buffer in twin.hf.named_buffers():
        assert torch.equal(buffer, dict(model.hf.named_buffers())[name]), "what is not learned was changed"
    again, other = (dict(randomized(model, seed).hf.named_parameters()) for seed in (3, 4))
    assert all(torch.equal(again[name], value) for name, value in twin.hf.named_parameters())
    assert not all(torch.equal(other[name], value) for name, value in twin.hf.named_parameters())


def test_cascading_starts_at_the_last_layer(model):
    block = model.head_block
    twin = randomized(model, top_layers=1)
    for layer in range(block.n_layers):
        pairs = zip(
            model.layer_module(block.name, layer).parameters(),
            twin.layer_module(block.name, layer).parameters(),
            strict=True,
        )
        same = all(torch.equal(a, b) for a, b in pairs)
        assert same == (layer < block.n_layers - 1), f"layer {layer}"
    untouched = randomized(model, top_layers=0).hf.state_dict()
    assert all(torch.equal(value, untouched[name]) for name, value in model.hf.state_dict().items())
    with pytest.raises(vt.VlmtraceError, match="top_layers=99 does not exist"):
        randomized(model, top_layers=99)


def test_tied_weights_stay_tied(model_store):
    model = copy.copy(model_store.shared("random_blip"))
    embedding = model.hf.text_decoder.get_input_embeddings().weight
    output = model.hf.text_decoder.get_output_embeddings().weight
    twin = randomized(model).hf.text_decoder
    tied = twin.get_input_embeddings().weight is twin.get_output_embeddings().weight
    assert tied == (embedding is output)


def test_what_loading_found_out_holds_for_the_copy(model_store):
    """A sweep that disagreed with hooks, and a block that was left out, are of the architecture."""
    model = copy.copy(model_store.shared("random_blip"))
    model.uses_fast_sweep, model.revision = False, "abc"
    model.blocks = {name: block for name, block in model.blocks.items() if name != "vision_encoder"}
    twin = randomized(model)
    assert not twin.uses_fast_sweep and twin.revision == "abc" and list(twin.blocks) == ["text_encoder", "text_decoder"]
    assert twin.processor is model.processor and twin.hf is not model.hf
    layers = [other.layer_module("text_encoder", 0) for other in (model, twin)]
    assert layers[0] is not layers[1] and layers[1] is twin.hf.text_encoder.encoder.layer[0]
