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
from vlmtrace.models.edges.nodes import IMAGE, PROMPT, Node, Wiring
from vlmtrace.models.hooks import attach_hooks
from vlmtrace.models.layer_kinds import CROSS_ATTENTION, IMAGE_STATES, OWN_EMBEDDINGS, STATE, key_sources, records_keys
from vlmtrace.models.sweep.kept_keys import Prefix, Recorded, Recorder
from vlmtrace.models.sweep.layer_calls import without_image
from vlmtrace.models.sweep.replay import BLOCK, Replay
from vlmtrace.models.sweep.shared_keys import SharedKeys
from vlmtrace.models.sweep.shared_prefix import no_attention, shared_prefixes
from vlmtrace.models.types import AnswerIds, Site, Trace, positions_read
from vlmtrace.models.vlm import VLM

#: What a layer of cross-attention whose keys and values are kept looks at.
LOOKED_AT = IMAGE_STATES[0]


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

    def entering(self, layer: int) -> Tensor:
        """See `NodeLayers.entering`."""
        return self.replay.calls[layer].hidden[:, self.first :]

    def final(self) -> Tensor:
        """See `NodeLayers.final`."""
        return self.base[BLOCK, "residual", self.block.n_layers - 1][:, self.first :]

    def output(self, module: str, layer: int) -> Tensor:
        """See `NodeLayers.output`."""
        return self.base[BLOCK, module, layer][:, self.first :]

    def looked_at(self, module: str, layer: int = 0) -> Tensor | None:
        """The image's rows, of cross-attention; what enters a lower layer, whose keys and values a layer reads."""
        if module == "mlp":
            return None
        if self.block.kind_at(layer) == CROSS_ATTENTION:
            return image_states(self.base, layer)
        source = self.replay.sources[layer]
        return None if source is None else self.entering(source)

    def compute(self, module: str, layer: int, **given: Stream) -> Tensor:
        """See `NodeLayers.compute`."""
        if module == "mlp":
            return self._feed_forward(layer, given["input"])
        if self.block.kind_at(layer) == STATE:
            return self._stateful(layer, given["input"].entering)
        n = max(len(stream.entering) for stream in given.values())
        query = given["query"].entering if "query" in given else self.entering(layer)
        prefix = self._prefix(layer, n, **given)
        options = without_image(self.replay.options(layer, self._rows, n), n)
        with shared_prefixes(self.model.hf, prefix):
            entering = query.expand(n, -1, -1)
            return self._captured("self_attention", layer, entering, {**options, "past_key_values": prefix})

    def _prefix(self, layer: int, n: int, **given: Stream) -> Prefix:
        """What n states attend to, some keys or values of which are made of other streams than the run's."""
        kept, looks = self._kept(layer), self.block.kind_at(layer) == CROSS_ATTENTION
        if looks and not {"key", "value"} & set(given):
            return Prefix.of_image(kept, n)
        own = Recorder(start=self.first)
        own.key, own.value = (part.expand(n, -1, -1, -1) for part in self._keys_values(layer, **given))
        if looks:
            return Prefix(kept, 0, attended=own)
        # What latent attention is given back, and what layers read of lower ones, is not yet or no longer in its hands.
        is_handed = not hasattr(self._attention(layer), "expand_kv") and self.replay.sources[layer] is None
        return Prefix(
            kept,
            self.first,
            self.replay.sees_all_before(layer, self.first),
            self.replay.is_causal_from(layer, self.first),
            own=own if is_handed else None,
            attended=None if is_handed else own,
        )

    def _kept(self, layer: int) -> Recorder:
        kept = self.replay.recorded[layer]
        assert kept is not None, "attention has keys"
        return kept

    def _attention(self, layer: int) -> Any:
        return self.model.attention_module(Site(BLOCK, "self_attention", layer))

    def _keys_values(self, layer: int, **given: Stream) -> tuple[Tensor, Tensor]:
        """Keys (1 or N, K, T or M, E) and values that heads attend to."""
        # Multi-head latent attention hands over what keys and values are made of: both of the same.
        expand = getattr(self._attention(layer), "expand_kv", None) or (lambda *parts: parts)
        first = 0 if self.block.kind_at(layer) == CROSS_ATTENTION else self.first
        kept = self._kept(layer)
        base = kept.key[:, :, first:], kept.value[:, :, first:]
        key, value = given.get("key"), given.get("value")
        both = expand(*(base if key is None else self._made(layer, key.entering)))
        if value is key:
            return both
        return both[0], expand(*(base if value is None else self._made(layer, value.entering)))[1]

    def _made(self, layer: int, entering: Tensor) -> tuple[Tensor, Tensor]:
        """What a layer hands over to its cache (N, K, T or M, E), of what enters it, or of the image's rows."""
        source = self.replay.sources[layer]
        if source is not None:
            return self._made(source, entering)
        recorder, n = Recorder(stops=True, start=self.first), len(entering)
        options = {**self.replay.options(layer, self._rows, n), "past_key_values": recorder}
        if self.block.kind_at(layer) == CROSS_ATTENTION:
            # As many rows as an image has, in whatever dimensions they lie.
            options[LOOKED_AT] = entering.reshape(-1, *options[LOOKED_AT].shape[1:])
            entering = self.entering(layer).expand(n, -1, -1)
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
        options = {**without_image(self.replay.options(layer, self._rows, n), n), "attention_mask": None}
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

    def embedded(self, layer: int) -> Tensor | None:
        """See `NodeLayers.embedded`."""
        given = self.replay.calls[layer].options.get(OWN_EMBEDDINGS)
        return None if given is None else given[:, self.first :]

    def leave(self, layer: int, entering: Tensor, outputs: dict[str, Tensor], embedded: Tensor | None = None) -> Tensor:
        """See `NodeLayers.leave`; what the model adds behind the layer is in it."""
        n = len(entering)
        context, mlp = (outputs[name].expand(n, -1, -1) for name in self.modules)
        left = self.replay.past_nodes(layer, self._rows, entering, context, mlp, embedded)
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

    def climb(self) -> SharedKeys:
        """See `NodeLayers.climb`: keys and values that layers read of lower ones."""
        return self.replay.pass_from(self.first)

    def advance(self, layer: int, states: Tensor, shared: SharedKeys) -> Tensor:
        """See `NodeLayers.advance`; above the last layer, of the positions that are read out alone."""
        if layer + 1 == self.block.n_layers:
            return self.replay.advance_read(layer, states[None], self.first, self.n_read, shared)[0]
        return self.replay.advance(layer, states[None], self.first, shared)[0]

    def logits(self, states: Tensor) -> Tensor:
        """See `NodeLayers.logits`."""
        return self.model.read(states[None, :, -self.n_read :])

    def state_bytes(self) -> int:
        """See `NodeLayers.state_bytes`."""
        return self.replay.state_bytes(self.first)


def image_states(run: Trace, layer: int) -> Tensor:
    """The rows of the image (1, M, D) that a layer of cross-attention looks at in the run of one pair.

    Args:
        run: of the pair
        layer: of cross-attention
    """
    states = run.calls[layer].options[LOOKED_AT]
    return states.reshape(1, -1, states.shape[-1])


def unsupported_layers(model: VLM) -> str | None:
    """Why the layers of a decoder-only model are not known by their nodes, in words; None: they are.

    Args:
        model: with the fast sweep
    """
    block = model.blocks[BLOCK]
    if any(block.lacking):
        return "layers that have one part each"
    for layer in range(block.n_layers):
        attention = model.attention_module(Site(BLOCK, "self_attention", layer))
        if block.kind_at(layer) == CROSS_ATTENTION and not records_keys(attention, CROSS_ATTENTION):
            return "layers that make keys of the image anew in every run"
    return None


def language_wiring(model: VLM) -> Wiring:
    """How the language model of a decoder-only model is wired.

    Args:
        model: with the fast sweep
    """
    block = model.blocks[BLOCK]
    layers = range(block.n_layers)
    sources = key_sources(model.attention_module(Site(BLOCK, "self_attention", layer)) for layer in layers)
    keys_at: dict[int, Node | int] = {layer: source for layer, source in enumerate(sources) if source is not None}
    keys_at |= {layer: IMAGE for layer in layers if block.kind_at(layer) == CROSS_ATTENTION}
    inputs = (PROMPT,) if CROSS_ATTENTION in block.kinds else (IMAGE, PROMPT)
    return Wiring(BLOCK, LanguageNodes.modules, inputs, {}, not mlp_reads_heads(model), keys_at)


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
