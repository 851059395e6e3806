"""A decoder-only run is taken up where it was left, from what its trace has kept."""

import pytest
import torch
from fixtures.asked import with_options

import vlmtrace as vt
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.models import Patches, Site
from vlmtrace.models.sweep import decoder_interventions, decoder_only
from vlmtrace.models.sweep.replay import BLOCK, Replay


@pytest.fixture(scope="module", params=["llava", "gemma3", "qwen3_vl"])
def run(request, model_store, random_pairs):
    model = model_store.shared(request.param)
    inputs = run_inputs(model, random_pairs.iloc[[1]], "image")
    return model, inputs, model.trace(inputs)


def without_recorders(trace):
    trace.calls = [call._replace(recorder=None) for call in trace.calls]
    return trace


@torch.no_grad()
def test_a_trace_keeps_the_keys_and_values_that_a_run_of_each_layer_gives(run):
    model, inputs, trace = run
    kept, again = Replay(model, trace), Replay(model, without_recorders(model.trace(inputs)))
    assert kept.nbytes == 0 and again.nbytes == sum(recorder.nbytes for recorder in kept.recorded) > 0
    for one, other in zip(kept.recorded, again.recorded, strict=True):
        torch.testing.assert_close(one.key, other.key, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one.value, other.value, atol=1e-5, rtol=1e-5)
    for added, expected in zip(kept.between, again.between, strict=True):
        assert (added is None) == (expected is None)
        assert added is None or torch.allclose(added, expected, atol=1e-5)


def test_keys_and_values_count_as_memory_and_are_kept_only_with_all_sites(run):
    model, inputs, trace = run
    some = model.trace(inputs, [Site(BLOCK, "residual", 0)])
    assert all(call.recorder is None for call in some.calls)
    kept = sum(call.recorder.nbytes for call in trace.calls)
    without = model.trace(inputs)
    before = without.nbytes
    assert before - without_recorders(without).nbytes == kept


@torch.no_grad()
def test_the_last_layer_gives_what_is_read_of_the_whole_layer(run):
    model, _, trace = run
    replay, first = Replay(model, trace), 2
    layer = len(replay.layers) - 1
    states = trace[BLOCK, "residual", layer - 1][:, None, first:].repeat(1, 3, 1, 1)
    states += torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
    whole = replay.advance(layer, states, first, replay.pass_from(first))
    for n_read in (1, 2, states.shape[2]):
        read = replay.advance_read(layer, states, first, n_read, replay.pass_from(first))
        torch.testing.assert_close(read, whole[:, :, -n_read:], atol=1e-5, rtol=1e-5)


def test_one_group_of_positions_gives_what_each_position_gives(run, random_pairs, monkeypatch):
    model, inputs, trace = run
    clean = model.trace(run_inputs(model, random_pairs.iloc[[1]], "clean"))
    at = torch.arange(trace.calls[0].hidden.shape[1])
    modules = [module for module in model.blocks[BLOCK].modules for _ in at]
    patches = Patches(
        BLOCK, modules, [0] * len(modules), [None] * len(modules), at.repeat(len(modules) // len(at))[None]
    )
    ids = trace.logits.topk(2).indices
    found = []
    for operations in (0.0, 1e15):
        monkeypatch.setattr(decoder_only, "OPERATIONS_WORTH_A_CALL", {"cpu": operations})
        found.append(model.sweep(clean, trace, inputs, patches, ids, memory=2**28))
    torch.testing.assert_close(found[0].correct, found[1].correct, atol=1e-4, rtol=0)
    assert (found[0].correct - trace.logits.max()).abs().max() > 1e-3, "no patch changes anything"


def test_logits_of_every_token_of_an_answer_count_as_memory(model_store, random_pairs, monkeypatch):
    """A vocabulary of 49,152 words is larger than all else of a state, and a whole answer reads it at each token."""
    model = model_store.shared("llava")
    asked = []
    count = Replay.state_bytes
    monkeypatch.setattr(
        Replay, "state_bytes", lambda self, first, n_read=1: asked.append((self, n_read)) or count(self, first, n_read)
    )
    pair = with_options(random_pairs.iloc[[0]], "red ball", "blue dog")
    vt.patch_heads(model, pair, positions=["last"])
    lengths = [len(model.spell_answer(pair[name].iloc[0])) for name in ("correct_answer", "incorrect_answer")]
    assert {n for _, n in asked} == {sum(lengths) - 1}, "both stand behind one prompt, whose last position they share"
    replay = asked[0][0]
    words = model.hf.config.get_text_config().vocab_size
    assert count(replay, 3, 4) - count(replay, 3, 1) == 3 * 2 * words * 4


@torch.no_grad()
def test_keys_that_are_copied_for_states_with_hidden_ones_count_as_memory(run):
    """A trace that holds them leaves `Replay.nbytes` at 0: the copies of each state are made all the same."""
    model, _, trace = run
    replay = Replay(model, trace)
    copied = [decoder_interventions._Before(kept, replay.length, 1) for kept in replay.recorded]
    most = max(one.key.nbytes + one.value.nbytes for one in copied)
    assert replay.nbytes == 0 and decoder_interventions._hiding_bytes(replay) >= 2 * most > 0
