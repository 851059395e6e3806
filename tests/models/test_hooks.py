"""Two threads at one model: JupyterLab serves widgets beside the cell that runs."""

import threading

import pytest
import torch

from vlmtrace.display import Session
from vlmtrace.inputs.batching import batches_of_pairs
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.patching.plans import head_plan
from vlmtrace.methods.patching.run_sweep import sweep_patches
from vlmtrace.methods.patching.view import Patching
from vlmtrace.models import Patches, Site
from vlmtrace.models.hooks import HookPoint, attach_hooks
from vlmtrace.models.sweep.shared_prefix import no_attention


def test_hooks_of_one_thread_change_nothing_in_another(random_blip, random_pairs):
    inputs = run_inputs(random_blip, random_pairs.iloc[[0]], "clean")
    with torch.no_grad():
        plain = random_blip.answer_logits(inputs)
    found = []
    point = random_blip.hook_point(Site("text_encoder", "residual", 1))
    other = threading.Thread(target=lambda: found.append(random_blip.answer_logits(inputs)))
    with torch.no_grad(), attach_hooks([(point, torch.zeros_like)]):
        other.start()
        other.join(0.5)
        assert not found, "the other thread has run through this thread's hooks"
        changed = random_blip.answer_logits(inputs)
    other.join(30)
    assert torch.equal(found[0], plain) and not torch.equal(changed, plain)


@pytest.mark.parametrize("name", ["llava", "random_blip"])
def test_a_sweep_of_one_thread_waits_for_the_hooks_of_another(model_store, random_pairs, name):
    """A sweep calls the model's layers by themselves: another thread's hooks must not act on them."""
    model = model_store.shared(name)
    pair, block = random_pairs.iloc[[0]], model.head_block.name
    _, runs, roles = next(iter(batches_of_pairs(model, pair, "image", head_plan(model, None), ["correct"])))
    positions = torch.tensor([[roles[block]["position"].iloc[0]]])
    patches = Patches(block, ["residual"], [0], [None], positions)
    plain, found = sweep_patches(model, runs, patches, 2**28), []
    assert plain.logit_diff != runs.corrupt_readout.logit_diff, "nothing is run"
    other = threading.Thread(target=lambda: found.append(sweep_patches(model, runs, patches, 2**28)))
    with attach_hooks([(model.hook_point(Site(block, "residual", 1)), torch.zeros_like)]):
        other.start()
        other.join(0.5)
        assert not found, "the other thread's sweep has run through this thread's hooks"
    other.join(30)
    assert torch.equal(found[0].logit_diff, plain.logit_diff)


def test_attention_that_a_sweep_changes_is_the_models_own_again_before_others_run(model_store, random_pairs):
    model = model_store.shared("llava")
    inputs = run_inputs(model, random_pairs.iloc[[0]], "clean")
    with torch.no_grad():
        plain = model.answer_logits(inputs)
    found = []
    other = threading.Thread(target=lambda: found.append(model.answer_logits(inputs)))
    with torch.no_grad(), no_attention(model.hf):
        other.start()
        other.join(0.5)
        assert not found, "the other thread has run without attention"
    other.join(30)
    assert torch.equal(found[0], plain)


def test_views_that_are_asked_at_once_answer_as_one_after_the_other(random_blip, random_pairs):
    expected = Patching(Session(random_blip, random_pairs)).head_effects()["patching_effect"]
    views = [Patching(Session(random_blip, random_pairs), hidden=True) for _ in range(4)]
    threads = [threading.Thread(target=view.show) for view in views]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for view in views:
        assert not view.frame.error
        assert view.head_effects()["patching_effect"].tolist() == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize(("axis", "shape"), [(0, (3, 2, 5, 4)), (2, (2, 5, 3, 4))])
def test_streams_side_by_side_are_one_activation(axis, shape):
    """Gemma 3n keeps (stream, batch, position, width), hyper-connections (batch, position, stream, width)."""
    module = torch.nn.Identity()
    value = torch.arange(120.0).reshape(shape)
    seen = []

    def set_position(activation):
        seen.append(activation)
        changed = activation.clone()
        changed[1, 3] = -1
        return changed

    for is_input in (True, False):
        with attach_hooks([(HookPoint(module, is_input, axis), set_position)], n_pairs=2):
            out = module(value)
        assert seen[-1].shape == (2, 5, 12)
        assert torch.equal(seen[-1][1, 3, :4], value.movedim(axis, 2)[1, 3, 0]), "streams are not in order"
        changed = (out != value).movedim(axis, 2)
        assert changed[1, 3].all() and changed.sum() == 12, "more than one position of one row was set"


def test_what_enters_a_module_is_found_by_name_too():
    """Llama 4 calls the layers of its vision encoder with names alone."""

    class Named(torch.nn.Module):
        def forward(self, hidden_state, scale):
            return hidden_state * scale

    module, value = Named(), torch.ones(1, 2, 3)
    with attach_hooks([(HookPoint(module, is_input=True), lambda entering: entering + 1)]):
        assert torch.equal(module(hidden_state=value, scale=2.0), 4 * value)
        assert torch.equal(module(scale=2.0, hidden_state=value), 4 * value)
        assert torch.equal(module(value, 2.0), 4 * value)
    assert torch.equal(module(hidden_state=value, scale=2.0), 2 * value)
