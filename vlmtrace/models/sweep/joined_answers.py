"""Two whole answers behind one prompt, run as one sequence.

A whole answer is read out of a run of its own, whose inputs end with the answer's tokens. Behind one prompt both runs
compute the same at every position of the prompt, and that is nearly all of them. Joined, the tokens of one answer
follow those of the other, with the positions that they had, and do not see them: every state of a sweep is run once.

Shapes: P pairs of equal length, T positions of the prompt, M and N tokens of both answers that stand behind it, K key
heads, E width of a head's keys.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlmtrace.models.layer_kinds import ATTENTION, IMAGE_STATES, SHARED_KEYS, key_sources
from vlmtrace.models.sweep.kept_keys import Recorder
from vlmtrace.models.sweep.layer_masks import BLOCK, masks_of, seen
from vlmtrace.models.types import Call, JoinedAnswers, Site, Trace, WholeAnswer
from vlmtrace.models.vlm import VLM

#: So far, as a share of the largest value, the same prompt may differ in two runs: by rounding.
SAME = 1e-3


class Side(NamedTuple):
    """One answer with its runs.

    Attributes:
        ids: of the answer
        clean: trace of the clean runs
        corrupt: trace of the corrupt runs
    """

    ids: WholeAnswer
    clean: Trace
    corrupt: Trace


class Joined(NamedTuple):
    """Both answers with their runs.

    Attributes:
        ids: what is read out
        clean: trace of the clean runs
        corrupt: trace of the corrupt runs
    """

    ids: JoinedAnswers
    clean: Trace
    corrupt: Trace


def join(model: VLM, correct: Side, contrast: Side) -> Joined | None:
    """Both answers' runs as one.

    Args:
        model: decoder-only
        correct: the correct answer
        contrast: the one that it is compared with

    Returns:
        both; None where a layer does more than attend to the positions of its own sequence, takes a token's position
        from its place in the sequence alone, or the prompt is not the same in both runs
    """
    block = model.blocks[BLOCK]
    if any(
        block.kind_at(layer) != ATTENTION or not block.has("self_attention", layer) for layer in range(block.n_layers)
    ):
        return None
    attentions = [model.attention_module(Site(BLOCK, "self_attention", layer)) for layer in range(block.n_layers)]
    if any(source is not None for source in key_sources(attentions)) or any(map(_counts_positions, attentions)):
        return None
    n_prompt = correct.corrupt.calls[0].hidden.shape[1] - correct.ids.n_positions + 1 if correct.corrupt.calls else 0
    masks = [masks_of(model, side.corrupt.calls) for side in (correct, contrast)]
    if not n_prompt or not _can_be_joined(correct.corrupt, contrast.corrupt, masks, n_prompt):
        return None
    return Joined(
        JoinedAnswers(correct.ids, contrast.ids),
        _joined(correct.clean, contrast.clean, masks, n_prompt),
        _joined(correct.corrupt, contrast.corrupt, masks, n_prompt),
    )


def _counts_positions(attention: Any) -> bool:
    """Whether an attention scales queries by their number in the sequence, as Llama 4's do that have no rotation."""
    return bool(getattr(attention, "attn_temperature_tuning", False)) and not getattr(attention, "use_rope", True)


def _can_be_joined(one: Trace, other: Trace, masks: list[list[Tensor | None]], n_prompt: int) -> bool:
    if len(one.calls) != len(other.calls):
        return False
    for first, second, mask, second_mask in zip(one.calls, other.calls, *masks, strict=True):
        for call, its_mask in ((first, mask), (second, second_mask)):
            length = call.hidden.shape[1]
            if call.recorder is None or call.recorder.key.shape[2:3] != (length,):
                return False
            if SHARED_KEYS in call.options or any(call.options.get(name) is not None for name in IMAGE_STATES):
                return False
            if its_mask is None or its_mask.shape[1:] != (1, length, length):
                return False
            if bool(seen(its_mask)[:, :, :n_prompt, n_prompt:].any()):
                return False
        given = _of_prompt(first, n_prompt), _of_prompt(second, n_prompt)
        if len(given[0]) != len(given[1]) or not all(map(_is_same, *given)):
            return False
    return True


def _of_prompt(call: Call, n_prompt: int) -> list[Tensor]:
    """All that a layer is called with which has one entry for each position, at those of the prompt."""
    length, found = call.hidden.shape[1], [call.hidden[:, :n_prompt]]
    for name, value in call.options.items():
        for part in value if isinstance(value, tuple) else (value,):
            if name != "attention_mask" and _has_positions(part, length):
                found.append(part[:, :n_prompt])
    return found


def _has_positions(value: Any, length: int) -> bool:
    """As `vlmtrace.models.sweep.layer_calls.options_at` takes it."""
    return isinstance(value, Tensor) and value.ndim > 1 and value.shape[1] == length


def _is_same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or not one.is_floating_point():
        return torch.equal(one, other)
    return bool((one - other).abs().max() <= SAME * one.abs().max())


def _joined(one: Trace, other: Trace, masks: list[list[Tensor | None]], n_prompt: int) -> Trace:
    """The first run, behind whose tokens stand those of the second one's answer."""
    known: dict[tuple[int, int], Tensor] = {}
    calls = []
    for first, second, mask, second_mask in zip(one.calls, other.calls, *masks, strict=True):
        assert mask is not None and second_mask is not None, "it is known what can be joined"
        which = (id(mask), id(second_mask))
        if which not in known:  # masks that are the same stay the same
            known[which] = _joined_masks(mask, second_mask, n_prompt)
        calls.append(_joined_calls(first, second, known[which], n_prompt))
    activations = {
        site: _behind(value, other.activations[site], n_prompt) if site.block == BLOCK else value
        for site, value in one.activations.items()
    }
    inputs = {
        block: _behind(value, other.layer_inputs[block], n_prompt) if block == BLOCK else value
        for block, value in one.layer_inputs.items()
    }
    return Trace(one.logits, activations, inputs, calls, one.image)


def _behind(value: Tensor, other: Tensor, n_prompt: int, dim: int = 1) -> Tensor:
    return torch.cat([value, other.narrow(dim, n_prompt, other.shape[dim] - n_prompt)], dim)


def _joined_calls(first: Call, second: Call, mask: Tensor, n_prompt: int) -> Call:
    length = first.hidden.shape[1]

    def joined(value: Any, other: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(joined(*parts) for parts in zip(value, other, strict=True))
        return _behind(value, other, n_prompt) if _has_positions(value, length) else value

    options = {name: joined(value, second.options[name]) for name, value in first.options.items()}
    recorder = Recorder()
    recorder.key = _behind(first.recorder.key, second.recorder.key, n_prompt, 2)
    recorder.value = _behind(first.recorder.value, second.recorder.value, n_prompt, 2)
    hidden = _behind(first.hidden, second.hidden, n_prompt)
    return Call(hidden, {**options, "attention_mask": mask}, recorder)


def _joined_masks(mask: Tensor, second: Tensor, n_prompt: int) -> Tensor:
    """What each position sees, (1 or P, 1, T + M + N, T + M + N): of the other answer nothing."""
    length, more = mask.shape[-1], second.shape[-1] - n_prompt
    n = max(len(mask), len(second))
    hidden = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    joined = mask.new_full((n, 1, length + more, length + more), hidden)
    joined[:, :, :length, :length] = mask
    joined[:, :, length:, :n_prompt] = second[:, :, n_prompt:, :n_prompt]
    joined[:, :, length:, length:] = second[:, :, n_prompt:, n_prompt:]
    return joined
