"""Whether a language model is its layers one after the other, as the fast sweep of decoder-only models replays it."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmtrace.core.caller import warn
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.sweep.layer_calls import stream_of
from vlmtrace.models.types import Inputs, Trace
from vlmtrace.models.vlm import VLM


def tolerance(model: VLM, values: Tensor) -> float:
    """By how much values may differ that are the same computation of a layer; −∞ among them does not count."""
    share = max(1e-4, 2 * torch.finfo(model.dtype).eps)
    return share * max(float(values[values.isfinite()].abs().amax() if values.isfinite().any() else 0.0), 1.0)


def largest_difference(one: Tensor, other: Tensor) -> float:
    """The largest absolute difference of two tensors; infinite where only one of two values is a number.

    >>> largest_difference(torch.tensor([1.0, -torch.inf]), torch.tensor([3.0, -torch.inf]))
    2.0
    >>> largest_difference(torch.tensor([torch.nan]), torch.tensor([0.0]))
    inf
    """
    apart = torch.where(one == other, 0.0, (one - other).abs())
    return float(apart.nan_to_num(nan=torch.inf).max())


@torch.no_grad()
def check_replay(model: VLM, trace: Trace, inputs: Inputs) -> None:
    """Check that the language model is its layers one after the other, and then the readout.

    Args:
        model: with visual tokens
        trace: of one pair, at all sites
        inputs: of that pair

    Raises:
        VlmtraceError: something else happens between the layers or after the last one
    """

    def refuse_unless_same(found: Tensor, expected: Tensor, scale: Tensor, sentence: str) -> None:
        worst = largest_difference(found, expected)
        if worst > tolerance(model, scale):
            raise VlmtraceError(f"{model.name} is not supported: {sentence} by {worst:.2g}.")

    block = "language_model"
    layers = [model.layer_module(block, i) for i in range(model.blocks[block].n_layers)]
    n = len(layers)
    if len(trace.calls) != n:
        raise VlmtraceError(f"{model.name} is not supported: {n} text layers are called {len(trace.calls)} times.")
    for i, call in enumerate(trace.calls):
        found = trace[block, "residual", i]  # (1, T, D)
        again = stream_of(layers[i], call.hidden, **call.options)
        refuse_unless_same(again, found, found, f"text layer {i}, run by itself, gives another output")
        if i + 1 < n:
            # Where image features are added in between, those positions may differ.
            at = ~model.is_image(inputs).to(found.device) if model.adds_image_features_after(i) else ...
            entering = trace.calls[i + 1].hidden
            sentence = f"the input of text layer {i + 1} is not the output of the one before"
            refuse_unless_same(entering[at], found[at], found, sentence)
    last = trace[block, "residual", n - 1][:, -1]  # (1, D)
    sentence = "the readout of the last layer differs from the model's logits"
    refuse_unless_same(model.read(last), trace.logits, trace.logits, sentence)


def leave_out_unknown_vision_encoder(model: VLM, trace: Trace, inputs: Inputs) -> None:
    """Leave the vision encoder out, and say so, if its positions are not the patches that they are taken for."""
    name = "vision_encoder"
    if name not in model.blocks:
        return
    known, seen = len(model.tokens(name, "", inputs)), trace[name, "residual", 0].shape[1]
    if known != seen:
        del model.blocks[name]
        model.entry_blocks = tuple(model.blocks)
        warn(
            f"The vision encoder of {model.name} has {seen} positions where its patches are {known}: it is not offered "
            "for patching."
        )
