"""The language model of a decoder-only model, taken apart into nodes: its own layers run, some outputs overwritten.

Queries, keys and values are told apart by what stands where a layer expects its cache: the layer hands its keys and
values over and goes on with those that it gets back. So they are as they meet, behind norms and rotations. A layer that
carries a state from position to position starts with the state that the run had at the first of them.

Shapes: N states, T positions from the first one that differs, K key heads, E width of a head, D width, O width of a
module's output.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.edges.layers import NodeLayers, Stream
from vlmtrace.models.hooks import attach_hooks
from vlmtrace.models.layer_kinds import ATTENTION, STATE
from vlmtrace.models.sweep.kept_keys import Prefix, Recorded, Recorder
from vlmtrace.models.sweep.replay import BLOCK, Replay
from vlmtrace.models.sweep.shared_prefix import no_attention, shared_prefixes
from vlmtrace.models.types import AnswerIds, Readout, Site, Trace, positions_read
from vlmtrace.models.vlm import VLM


class _Captured(Exception):
    """The forward pass of a layer got as far as the activation that is wanted."""


class LanguageNodes(NodeLayers):
    """The language model."""

    modules = ("self_attention", "mlp")

    def __init__(self, model: VLM, base: Trace, answer_ids: AnswerIds, first: int = 0):
        """Take a run of one pair apart.

        Args:
            model: decoder-only, with the fast sweep
            base: trace of the run, at all sites, with `calls`
            answer_ids: what is read out
            first: the first position that differs in any state
        """
        self.model, self.base, self.answer_ids = model, base, answer_ids
        self.block, self.first = model.blocks[BLOCK], first
        self.replay = Replay(model, base)
        self.n_read = positions_read(answer_ids)

    @staticmethod
    def unsupported_reason(model: VLM) -> str | None:
        """Why a model's layers cannot be taken apart, in words; None: they can."""
        block = model.blocks[BLOCK]
        if any(block.kind_at(layer) not in (ATTENTION, STATE) for layer in range(block.n_layers)):
            return "layers that look at the image from within"
        if getattr(model, "shares_keys", False):
            return "layers that read the keys and values of lower layers"
        return None

    def entering(self, layer: int) -> Tensor:
        """See `NodeLayers.entering`."""
        return self.replay.calls[layer].hidden[:, self.first :]

    def final(self) -> Tensor:
        """See `NodeLayers.final`."""
        return self.base[BLOCK, "residual", self.block.n_layers - 1][:, self.first :]

    def output(self, module: str, layer: int) -> Tensor:
        """See `NodeLayers.output`."""
        return self.base[BLOCK, module, layer][:, self.first :]

    def looked_at(self, module: str) -> Tensor | None:
        """Nothing else than its own stream."""
        return None

    def compute(self, module: str, layer: int, **given: Stream) -> Tensor:
        """See `NodeLayers.compute`."""
        if module == "mlp":
            return self._feed_forward(layer, given["input"])
        if self.block.kind_at(layer) == STATE:
            return self._stateful(layer, given["input"].entering)
        kept = self.replay.recorded[layer]
        assert kept is not None, "attention has keys"
        n = max(len(stream.entering) for stream in given.values())
        key, value = (part.expand(n, -1, -1, -1) for part in self._keys_values(layer, **given))
        own = Recorder(start=self.first)
        own.key, own.value = key, value
        latent = hasattr(self._attention(layer), "expand_kv")
        prefix = Prefix(
            kept,
            self.first,
            self.replay.sees_all_before(layer, self.first),
            self.replay.is_causal_from(layer, self.first),
            own=None if latent else own,
            attended=own if latent else None,
        )
        query = given["query"].entering if "query" in given else self.entering(layer)
        options = {**self.replay.options(layer, self._rows, n), "past_key_values": prefix}
        with shared_prefixes(self.model.hf, prefix):
            return self._captured("self_attention", layer, query.expand(n, -1, -1), options)

    def _attention(self, layer: int) -> Any:
        return self.model.attention_module(Site(BLOCK, "self_attention", layer))

    def _keys_values(self, layer: int, **given: Stream) -> tuple[Tensor, Tensor]:
        """Keys (1 or N, K, T, E) and values that heads attend to, some made of other streams than the run's."""
        kept = self.replay.recorded[layer]
        assert kept is not None, "attention has keys"
        # Multi-head latent attention hands over what keys and values are made of: both of the same.
        expand = getattr(self._attention(layer), "expand_kv", None) or (lambda *parts: parts)
        base = kept.key[:, :, self.first :], kept.value[:, :, self.first :]
        key, value = given.get("key"), given.get("value")
        both = expand(*(base if key is None else self._made(layer, key.entering)))
        if value is key:
            return both
        return both[0], expand(*(base if value is None else self._made(layer, value.entering)))[1]

    def _made(self, layer: int, entering: Tensor) -> tuple[Tensor, Tensor]:
        """What a layer hands over to its cache (N, K, T, E), of what enters it."""
        recorder = Recorder(stops=True, start=self.first)
        options = {**self.replay.options(layer, self._rows, len(entering)), "past_key_values": recorder}
        with contextlib.suppress(Recorded):
            self.replay.layers[layer](entering, **options)
        return recorder.key, recorder.value

    def _stateful(self, layer: int, entering: Tensor) -> Tensor:
        """What the heads (N, T, O) of a layer that carries a state give."""
        options = self.replay.options(layer, self._rows, len(entering))
        carried = self.replay.carried(layer, self.first, len(entering))
        return self._captured("self_attention", layer, entering, {**options, "past_key_values": carried})

    def _feed_forward(self, layer: int, stream: Stream) -> Tensor:
        context = stream.outputs["self_attention"]
        n = max(len(stream.entering), len(context))
        entering, context = stream.entering.expand(n, -1, -1), context.expand(n, -1, -1)
        options = {**self.replay.options(layer, self._rows, n), "attention_mask": None}
        point = self.model.hook_point(Site(BLOCK, "self_attention", layer))
        with no_attention(self.model.hf), attach_hooks([(point, lambda found: context.reshape(*found.shape[:-1], -1))]):
            return self._captured("mlp", layer, entering, options)

    def _captured(self, module: str, layer: int, entering: Tensor, options: dict[str, Any]) -> Tensor:
        """What a layer's module gives, of a call of the layer that goes no further."""
        kept: list[Tensor] = []

        def capture(value: Tensor) -> None:
            kept.append(value)
            raise _Captured

        with (
            contextlib.suppress(_Captured),
            attach_hooks([(self.model.hook_point(Site(BLOCK, module, layer)), capture)]),
        ):
            self.replay.layers[layer](entering, **options)
        if not kept:
            raise VlmtraceError(f"Layer {layer} of {self.model.name} never reached its {module}: it is not supported.")
        return kept[0].reshape(*entering.shape[:2], -1)

    @property
    def _rows(self) -> slice:
        return slice(self.first, None)

    def leave(self, layer: int, entering: Tensor, outputs: dict[str, Tensor]) -> Tensor:
        """See `NodeLayers.leave`; what the model adds behind the layer is in it."""
        n = len(entering)
        context, mlp = (outputs[name].expand(n, -1, -1) for name in self.modules)
        left = self.replay.past_nodes(layer, self._rows, entering, context, mlp)
        added = self.replay.between[layer]
        return left if added is None else left + added[:, self.first :]

    def enter(self, module: str, layer: int, output: Tensor) -> Tensor:
        """See `NodeLayers.enter`; above the last layer, of the positions that are read out alone."""
        rows = self._rows
        if layer + 1 == self.block.n_layers:
            rows = slice(max(self.first, self.replay.length - self.n_read), None)
            output = output[:, -self.n_read :]
        if module == "self_attention":
            return self.replay.rows(layer, rows, output[None], None)[0]
        context = self.base[BLOCK, "self_attention", layer][:, rows].expand(len(output), -1, -1)
        return self.replay.rows(layer, rows, context[None], output[None])[0]

    def advance(self, layer: int, states: Tensor) -> Tensor:
        """See `NodeLayers.advance`; above the last layer, of the positions that are read out alone."""
        shared = self.replay.pass_from(self.first)
        if layer + 1 == self.block.n_layers:
            return self.replay.advance_read(layer, states[None], self.first, self.n_read, shared)[0]
        return self.replay.advance(layer, states[None], self.first, shared)[0]

    def read(self, states: Tensor) -> Readout:
        """See `NodeLayers.read`."""
        return Readout.of_last(self.model.read(states[None, :, -self.n_read :]), self.answer_ids)

    def state_bytes(self) -> int:
        """See `NodeLayers.state_bytes`."""
        return self.replay.state_bytes(self.first)


@torch.no_grad()
def mlp_reads_heads(model: VLM) -> bool:
    """Whether the feed-forward of a layer reads what the layer's heads write, or stands beside them.

    Args:
        model: decoder-only
    """
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    inputs = model.encode([image], [model.prompt_text("is this a or b?")])
    heads, mlp = (model.hook_point(Site(BLOCK, module, 0)) for module in LanguageNodes.modules)
    seen: list[Tensor] = []
    for points in ([], [(heads, torch.zeros_like)]):
        with attach_hooks([*points, (mlp, seen.append)]):
            model.answer_logits(inputs)
    return not torch.equal(*seen)
