"""Patches of the vision encoder of a decoder-only model.

Vision layers up to the patched one do not run; of the language model only the positions from the image on do.

Shapes: P pairs of equal length, S states (patches) per pair, T positions, L of them run again, M positions of the
vision encoder, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vlmtrace.models.hooks import MODEL_LOCK, HookPoint, attach_hooks
from vlmtrace.models.sweep.chunking import in_chunks
from vlmtrace.models.sweep.layer_sweep import gather_rows, repeat_with_row
from vlmtrace.models.sweep.replay import BLOCK, Replay
from vlmtrace.models.types import AnswerIds, BothAnswers, Inputs, Patches, Readout, Site, Trace, positions_read
from vlmtrace.models.vlm import VLM, inputs_of_pair, repeat_inputs

VISION = "vision_encoder"

#: Positions that a vision encoder takes at once where they are one sequence: scores grow with their square.
IN_ONE_ROW = 2048


class _Entered(Exception):
    """The forward pass has come to the language model, and no more is wanted."""


def sweep_vision(
    model: VLM, clean: Trace, corrupt: Trace, inputs: Inputs, patches: Patches, answer_ids: AnswerIds, memory: int
) -> Readout:
    """Answer every patch of the vision encoder; see `ModelInterface.sweep`."""
    replay = Replay(model, corrupt)
    if model.injects_image_features_later:
        return _by_whole_passes(model, replay, clean, corrupt, inputs, patches, answer_ids, memory)
    n_pairs, n_layers, n_read = len(answer_ids), len(replay.layers), positions_read(answer_ids)
    first = replay.first_changed(model.is_image(inputs).any(0))

    def answer(chunk: Patches) -> Readout:
        entering = [
            _entering(model, clean, corrupt, inputs_of_pair(inputs, pair, n_pairs), chunk.of_pair(pair), pair)[
                :, first:
            ]
            for pair in range(n_pairs)
        ]
        states, shared = torch.stack(entering), replay.pass_from(first)  # (P, S, L, D)
        for layer in range(n_layers - 1):
            states = replay.advance(layer, states, first, shared)
        states = replay.advance_read(n_layers - 1, states, first, n_read, shared)
        return Readout.of_last(model.read(states[:, :, -n_read:]), answer_ids)

    state_bytes = n_pairs * max(replay.state_bytes(first, n_read), _seeing_bytes(model, corrupt) // n_pairs)
    return in_chunks(patches, _states_at_once(model, corrupt, (memory - replay.nbytes) // state_bytes), answer)


def _entering(model: VLM, clean: Trace, corrupt: Trace, inputs: Inputs, patches: Patches, pair: int) -> Tensor:
    """What enters the language model with each patch of one pair, in the order of the patches: (S, T, D)."""
    found: list[Tensor] = []

    def keep(stream: Tensor) -> None:
        found.append(stream)
        raise _Entered

    point = HookPoint(model.layer_module(BLOCK, 0), is_input=True)
    for layer in dict.fromkeys(patches.layers):
        same = _of_layer(patches, layer)
        with _patched(model, clean, corrupt, same, pair), attach_hooks([(point, keep)]), contextlib.suppress(_Entered):
            model.last_logits(repeat_inputs(inputs, len(same)), 1)
    return torch.cat(found)


def _by_whole_passes(
    model: VLM,
    replay: Replay,
    clean: Trace,
    corrupt: Trace,
    inputs: Inputs,
    patches: Patches,
    answer_ids: AnswerIds,
    memory: int,
) -> Readout:
    """As `sweep_vision`, where image features also enter later layers: the whole language model runs."""
    readouts = []
    assert not isinstance(answer_ids, BothAnswers), "the answer follows the prompt in one block"
    for pair in range(len(answer_ids)):
        mine = inputs_of_pair(inputs, pair, len(answer_ids))

        def answer(chunk: Patches, mine: Inputs = mine, pair: int = pair) -> Readout:
            found = []
            for layer in dict.fromkeys(chunk.layers):
                same = _of_layer(chunk, layer)
                with _patched(model, clean, corrupt, same, pair):
                    logits = model.last_logits(repeat_inputs(mine, len(same)), positions_read(answer_ids))
                found.append(Readout.of_last(logits[None], answer_ids[pair : pair + 1]))
            return Readout.cat(found, dim=1)

        state_bytes = max(replay.state_bytes(0, positions_read(answer_ids)), _seeing_bytes(model, corrupt))
        size = _states_at_once(model, corrupt, memory // state_bytes)
        readouts.append(in_chunks(patches.of_pair(pair), size, answer))
    return Readout.cat(readouts, dim=0)


def _of_layer(patches: Patches, layer: int) -> Patches:
    return patches.subset([i for i, at in enumerate(patches.layers) if at == layer])


def _states_at_once(model: VLM, corrupt: Trace, fitting: int) -> int:
    """How many states run together, of those that fit into memory."""
    if model.family.vision_in_one_row:
        fitting = min(fitting, IN_ONE_ROW // corrupt[VISION, "residual", 0].shape[1])
    return max(1, fitting)


def _seeing_bytes(model: VLM, corrupt: Trace) -> int:
    """What one state of one pair occupies while the vision encoder runs on it."""
    vision = corrupt[VISION, "residual", 0]
    n_heads = model.blocks[VISION].n_heads
    return (vision.shape[1] * 24 * vision.shape[2] + n_heads * vision.shape[1] ** 2) * vision.element_size()


@contextlib.contextmanager
def _patched(model: VLM, clean: Trace, corrupt: Trace, patches: Patches, pair: int) -> Iterator[None]:
    """While this is entered, the vision encoder gives one pair's patched states, all of one layer."""
    layer, one = patches.layers[0], slice(pair, pair + 1)
    site = Site(VISION, "residual", layer)
    states = _patched_stream(clean[site][one], corrupt[site][one], patches)  # (1, S, M, D)
    with _resumed(model, [corrupt[VISION, "residual", i][one] for i in range(layer)], states):
        yield


def _patched_stream(clean: Tensor, corrupt: Tensor, patches: Patches) -> Tensor:
    """The corrupt residual stream (1, M, D) once for each patch, with its position or positions clean: (1, S, M, D)."""
    if patches.position_masks is not None:
        masks = patches.position_masks.to(clean.device)
        return torch.where(masks[..., None], clean[:, None], corrupt[:, None])
    return repeat_with_row(corrupt, patches.positions, gather_rows(clean, patches.positions).unsqueeze(2))


@contextlib.contextmanager
def _resumed(model: VLM, below: list[Tensor], states: Tensor) -> Iterator[None]:
    """While this is entered, the first vision layers only give `below` (1, M, D), the next one `states` (1, S, M, D).

    What the layers below give matters where the projector reads several layers.
    """

    def stub(module: nn.Module, gives: Tensor) -> None:
        def forward(*args: Any, **options: Any) -> Tensor | tuple[Tensor]:
            # Whatever its name, what enters a layer comes first.
            found = gives.reshape((*args, *options.values())[0].shape)
            return (found,) if model.family.vision_gives_tuples else found

        module.forward = forward

    stubbed = [model.layer_module("vision_encoder", i) for i in range(len(below) + 1)]
    given = [*(stream.expand(states.shape[1], -1, -1) for stream in below), states]
    with MODEL_LOCK:  # another thread must not run the model through these
        # Where a model is spread over devices, accelerate has put a forward of its own there.
        before = [module.__dict__.get("forward") for module in stubbed]
        try:
            for module, gives in zip(stubbed, given, strict=True):
                stub(module, gives)
            yield
        finally:
            for module, own in zip(stubbed, before, strict=True):
                module.__dict__.pop("forward", None)
                if own is not None:
                    module.forward = own
