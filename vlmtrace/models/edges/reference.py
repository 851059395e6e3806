"""Path patching the naive way: three whole forward passes with hooks for every edge.

Slow, obvious, and independent of how the sweep takes layers apart. The tests compare the sweep with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vlmtrace.models.edges.nodes import IMAGE, ONLY_INPUT, PROMPT, THE_OUTPUT, Node, Receiver
from vlmtrace.models.edges.wiring import wirings_of
from vlmtrace.models.hooks import HookPoint, attach_hooks
from vlmtrace.models.layer_kinds import SHARED_KEYS
from vlmtrace.models.sweep.reference import read, with_patch
from vlmtrace.models.types import AnswerIds, Inputs, Readout, Site, Trace
from vlmtrace.models.vlm import VLM

#: What attention modules call the projections behind a head's inputs. A gate on what a head gives reads the stream at
#: the query's position, and belongs to the query.
PROJECTIONS = {
    "query": ("query", "q_proj", "q_b_proj", "g_proj", "gate_proj"),
    "key": ("key", "k_proj"),
    "value": ("value", "v_proj"),
}

_KeysValues = tuple[Tensor, Tensor]
_Hook = tuple[HookPoint, Callable[[Tensor], Tensor | None]]


@torch.no_grad()
def hooked_edge(
    model: VLM,
    source: Trace,
    base: Trace,
    source_inputs: Inputs,
    inputs: Inputs,
    sender: Node,
    receiver: Receiver,
    answer_ids: AnswerIds,
    position: int | None = None,
) -> Readout:
    """Answer one edge of one pair by hooked forward passes.

    In the first pass every node gives what it gives in the base run, but for the sender, which gives what it does in
    the source run: so nothing but the residual stream brings it to the receiver. What the receiver's input becomes
    there, is put into the second pass; what its node then gives, into the third, in which all above it is computed.

    Args:
        model: BLIP, or decoder-only with projections of their own for queries, keys and values
        source: trace of the run whose output is sent, at all sites
        base: trace of the run that reads it, at all sites
        source_inputs: of the source run (batch 1)
        inputs: of the base run (batch 1)
        sender: which node's output is sent
        receiver: what reads it
        answer_ids: what is read out, of one pair
        position: of the sender's output; None: all

    Returns:
        Readout (1, 1)
    """
    frozen = _frozen(model, source, base, sender, position)
    first = _first_inputs(source_inputs, inputs, sender)
    if receiver.node == THE_OUTPUT:
        with attach_hooks(frozen, n_pairs=1):
            return read(model, first, answer_ids)
    node = receiver.node
    assert node.layer is not None, "only the output is in no layer"
    site = Site(node.block, node.module, node.layer)
    # Hooks of one module run in the order in which they are attached: what is read here is not frozen yet.
    if node.head is None:
        made = _seen(model, first, [], model.hook_point(site), frozen)
    elif receiver.input == ONLY_INPUT:
        # Its heads read what enters the layer, and nothing else.
        entering: list[_Hook] = []
        if site.layer:
            below = model.hook_point(Site(site.block, "residual", site.layer - 1))
            entering = [(below, partial(_given, _seen(model, first, frozen, below, [])))]
        made = _seen(model, first, entering, model.hook_point(site), [])
    else:
        made = _with_input(model, first, inputs, site, receiver.input, frozen)
    n_heads = 1 if node.head is None else model.blocks[node.block].heads_at(node.layer)
    patched = with_patch(base[site], made.view(base[site].shape), list(range(made.shape[-2])), node.head, n_heads)
    with attach_hooks([(model.hook_point(site), partial(_given, patched))], n_pairs=1):
        return read(model, inputs, answer_ids)


def _given(value: Tensor, _found: Tensor) -> Tensor:
    return value


def _first_inputs(source: Inputs, base: Inputs, sender: Node) -> Inputs:
    """The base run's inputs, with the image or the prompt of the source run if that is what is sent."""
    is_sent = {IMAGE: lambda name: name != "input_ids", PROMPT: lambda name: name == "input_ids"}.get(sender)
    return base if is_sent is None else {name: (source if is_sent(name) else base)[name] for name in base}


def _frozen(model: VLM, source: Trace, base: Trace, sender: Node, position: int | None) -> list[_Hook]:
    """Hooks by which every node gives what it gives in the base run, but for the sender."""
    hooks: list[_Hook] = []
    for wiring in wirings_of(model):
        block = model.blocks[wiring.block]
        for layer in range(block.n_layers):
            for module in wiring.modules:
                site = Site(wiring.block, module, layer)
                value = base[site]
                if sender[:3] == (wiring.block, module, layer):
                    positions = list(range(value.shape[1])) if position is None else [position]
                    n_heads = 1 if sender.head is None else block.heads_at(layer)
                    value = with_patch(value, source[site], positions, sender.head, n_heads)
                hooks.append((model.hook_point(site), partial(_given, value)))
    return hooks


def _seen(model: VLM, inputs: Inputs, before: Sequence[_Hook], point: HookPoint, after: Sequence[_Hook]) -> Tensor:
    """What a hook point carries in a pass, behind the hooks `before` and in front of the hooks `after`."""
    kept: list[Tensor] = []

    def keep(value: Tensor) -> None:
        kept.append(value.clone())

    with attach_hooks([*before, (point, keep), *after], n_pairs=1):
        model.answer_logits(inputs)
    return kept[0]


def projections(attention: Any, name: str) -> list[nn.Module]:
    """The modules that make one input of an attention's heads, of the stream or of what is looked at.

    Args:
        attention: the module of a layer's heads
        name: "query", "key" or "value"
    """
    found = [getattr(attention, other, None) for other in PROJECTIONS[name]]
    return [one for one in found if one is not None]


def _with_input(model: VLM, first: Inputs, inputs: Inputs, site: Site, name: str, frozen: Sequence[_Hook]) -> Tensor:
    """What a module's heads give, of one input as it is in a pass with frozen nodes, and the base run's others."""
    attention: Any = model.attention_module(site)
    if name != "query" and (hasattr(attention, "expand_kv") or getattr(attention, "is_kv_shared_layer", False)):
        # Latent attention makes keys and values of one projection; others read those of a lower layer.
        seen: list[tuple[Tensor, Tensor]] = []
        with attach_hooks(frozen, n_pairs=1), _attending(attention, seen.append):
            model.answer_logits(first)
        ((key, value),) = seen
        with _attending(attention, lambda both: (key, both[1]) if name == "key" else (both[0], value)):
            return _seen(model, inputs, [], model.hook_point(site), [])
    points = [HookPoint(one, is_input=False) for one in projections(attention, name)]
    changed: list[_Hook] = [(point, partial(_given, _seen(model, first, frozen, point, []))) for point in points]
    return _seen(model, inputs, changed, model.hook_point(site), [])


@contextlib.contextmanager
def _attending(attention: Any, function: Callable[[_KeysValues], _KeysValues | None]) -> Iterator[None]:
    """While this is entered, keys and values go through a function before an attention uses them.

    Args:
        attention: latent, or one that reads keys and values of a lower layer
        function: of both; what it returns replaces them, unless it is None
    """

    def replaced(both: _KeysValues) -> _KeysValues:
        new = function(both)
        return both if new is None else new

    def shared(_module: Any, args: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        given = options[SHARED_KEYS]
        return args, {**options, SHARED_KEYS: {**given, attention.layer_type: replaced(given[attention.layer_type])}}

    if not hasattr(attention, "expand_kv"):
        handle = attention.register_forward_pre_hook(shared, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
        return
    expand = attention.expand_kv
    attention.expand_kv = lambda *parts: replaced(expand(*parts))
    try:
        yield
    finally:
        del attention.expand_kv
