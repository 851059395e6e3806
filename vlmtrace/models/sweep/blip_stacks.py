"""Interventions at several sites or positions at once in BLIP, exactly, by one growing batch of states.

A state is the base run until an intervention first does something to it: there it joins the states that are under
way, at the very module of the layer. What an intervention overwrites altogether is not computed. Interventions that
change the image have keys and values of their own; all others share those of their pair's image.

Shapes: P pairs of equal question length, S states (interventions) per pair, F of them joining, T question positions, M
image positions, U tokens of the answer decoder, N questions, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmtrace.models.interventions import MODULES, Interventions, Setting
from vlmtrace.models.products import linear, linear_gelu
from vlmtrace.models.sweep.blip_layers import QuestionLayers, TextLayers, vision_layer
from vlmtrace.models.sweep.layer_sweep import attend, concat_states, split_heads
from vlmtrace.models.types import Site, Trace


class Stack:
    """A stack of layers through which states go, each with its interventions.

    Attributes:
        block: its name
        source: what is copied from
        base: the run that the interventions change
        given: the interventions, in the order in which they first act in this block
        starts: where that is, as layer and place in `MODULES`
    """

    block: str

    def __init__(self, source: Trace, base: Trace, given: Interventions):
        """Prepare to run states through the block.

        Args:
            source: what is copied from
            base: the run that the interventions change
            given: sorted by where they first act in this block; those that act nowhere in it come last
        """
        self.source, self.base, self.given = source, base, given
        self.starts = given.starts(self.block)
        self.busy = {site.layer for site in (*given.overwritten, *given.blocked) if site.block == self.block}

    def run(self, n_layers: int, states: Tensor | None = None) -> Tensor:
        """Go through all layers.

        Args:
            n_layers: how many there are
            states: (P, S, …, D), which enter layer 0 because they differ from the base run already; None: all join
                where their intervention first acts

        Returns:
            the last layer's output (P, S, …, D)
        """
        if states is not None:
            self.starts = [None] * self.given.n  # nothing joins: all are under way
        for layer in range(n_layers):
            here = 0 if states is None else states.shape[1]
            if layer not in self.busy:
                states = None if states is None else self.plain(layer, states)
            elif states is not None and not self._acts(layer, here):
                # What is under way has nothing to do with this layer's interventions: it need not be looked into.
                states = concat_states(self.plain(layer, states), self.layer(layer, None, here))
            else:
                states = self.layer(layer, states, 0)
        last = self.base[self.block, "residual", n_layers - 1]
        rest = self.given.n - (0 if states is None else states.shape[1])
        return concat_states(states, repeated(last, rest) if rest or states is None else None)

    def plain(self, layer: int, states: Tensor) -> Tensor:
        """One whole layer for states (P, S, …, D) with which nothing is done in it."""
        raise NotImplementedError

    def layer(self, layer: int, states: Tensor | None, skipped: int) -> Tensor:
        """One layer module by module.

        Args:
            layer: which
            states: (P, S, …, D) that enter it; None: there are none
            skipped: how many states come before those that are dealt with here

        Returns:
            (P, S + F, …, D), with the states that join in this layer
        """
        raise NotImplementedError

    def _acts(self, layer: int, n_states: int) -> bool:
        return any(
            site.block == self.block and site.layer == layer and setting.states[0] < n_states
            for settings in (self.given.overwritten, self.given.blocked)
            for site, setting in settings.items()
        )

    def joining(self, layer: int, module: str) -> int:
        """How many states join at a module of a layer."""
        return self.starts.count((layer, MODULES.index(module)))

    def setting(self, kind: dict[Site, Setting], layer: int, module: str, skipped: int, n: int) -> Setting | None:
        """What is done to `n` states that come behind the first `skipped` ones."""
        found = kind.get(Site(self.block, module, layer))
        return None if found is None else found.renumbered({skipped + i: i for i in range(n)})

    def overwrite(self, value: Tensor, layer: int, module: str, skipped: int) -> Tensor:
        """The module's activation (P, S, …, D) with what is overwritten."""
        found = self.setting(self.given.overwritten, layer, module, skipped, value.shape[1])
        return value if found is None else found.over(value, self.source[self.block, module, layer])

    def join(self, value: Tensor | None, base: Tensor, layer: int, module: str) -> Tensor | None:
        """Values (P, S, …, D) and those of the states that join at a module, which are the base run's (P, …, D)."""
        n = self.joining(layer, module)
        return concat_states(value, repeated(base, n)) if n else value


class TextStack(Stack):
    """Question encoder or answer decoder."""

    def __init__(self, source: Trace, base: Trace, given: Interventions, layers: TextLayers, own: bool):
        """Prepare to run states through the block.

        Args:
            source: as in `Stack`
            base: as in `Stack`
            given: as in `Stack`
            layers: the block's, over what all states of a pair attend to, or what each of them does (P·S first)
            own: whether every state attends to something of its own
        """
        self.block = layers.block
        super().__init__(source, base, given)
        self.layers, self.own = layers, own

    def layer(self, layer: int, states: Tensor | None, skipped: int) -> Tensor:
        """See `Stack.layer`."""
        layers, stream = self.layers, states
        entering = self.base.layer_input(self.block, layer)  # of the base run, (P, T, D)
        for module, after in (
            ("self_attention", layers.after_self_attention),
            ("cross_attention", layers.after_cross_attention),
        ):
            context = self._context(layer, module, stream, entering, skipped)
            stream = self.join(stream, entering, layer, module)
            entering = after(layer, self.base[self.block, module, layer], entering)
            if stream is not None and context is not None:
                stream = after(layer, self.overwrite(context, layer, module, skipped), stream)
        if stream is not None or self.joining(layer, "mlp"):
            stream = self._feed_forward(layer, stream, entering, skipped)
        stream = self.join(stream, self.base[self.block, "residual", layer], layer, "residual")
        assert stream is not None, "a layer without interventions and states is not run"
        return self.overwrite(stream, layer, "residual", skipped)

    def plain(self, layer: int, states: Tensor) -> Tensor:
        """See `Stack.plain`."""
        layers = self.layers
        stream = layers.after_self_attention(layer, self._self_attention(layer, states, None), states)
        stream = layers.after_cross_attention(layer, self._cross_attention(layer, stream), stream)
        return layers.feed_forward(layer, stream)

    def _feed_forward(self, layer: int, stream: Tensor | None, entering: Tensor, skipped: int) -> Tensor:
        module = self.layers.layers[layer]
        if Site(self.block, "mlp", layer) not in self.given.overwritten:
            assert stream is not None, "a layer without interventions and states is not run"
            return self.layers.feed_forward(layer, stream)
        inner = None if stream is None else self._inner(module, stream)
        inner = self.join(inner, self.base[self.block, "mlp", layer], layer, "mlp")
        stream = self.join(stream, entering, layer, "mlp")
        assert inner is not None and stream is not None, "a layer without interventions and states is not run"
        return module.output.LayerNorm(self.overwrite(inner, layer, "mlp", skipped) + stream)

    @staticmethod
    def _inner(module: Any, stream: Tensor) -> Tensor:
        inner = linear_gelu(module.intermediate.dense, module.intermediate.intermediate_act_fn, stream)
        return linear(module.output.dense, inner)

    def _context(self, layer: int, module: str, stream: Tensor | None, entering: Tensor, skipped: int) -> Tensor | None:
        """Contexts (P, S + F, T, D): of the states that enter, and of those that join here."""
        n, joining = 0 if stream is None else stream.shape[1], self.joining(layer, module)
        base = self.base[self.block, module, layer]
        blocked = self.setting(self.given.blocked, layer, module, skipped, n + joining)
        if blocked is not None:
            stream = self.join(stream, entering, layer, module)
            assert stream is not None
            return self._masked(layer, module, stream, blocked)
        if stream is None:
            return repeated(base, joining) if joining else None
        context = self._computed(layer, module, stream, skipped)
        return self.join(context, base, layer, module)

    def _computed(self, layer: int, module: str, stream: Tensor, skipped: int) -> Tensor:
        """Contexts of states, where they are not overwritten altogether."""
        found = self.setting(self.given.overwritten, layer, module, skipped, stream.shape[1])
        whole = set() if found is None else set(found.whole)
        if not whole or (self.own and len(whole) < stream.shape[1]):
            return self._attention(layer, module, stream)
        needed = [i for i in range(stream.shape[1]) if i not in whole]
        context = torch.zeros_like(stream)
        if needed:
            context[:, needed] = self._attention(layer, module, stream[:, needed])
        return context

    def _attention(self, layer: int, module: str, stream: Tensor) -> Tensor:
        if module == "cross_attention":
            return self._cross_attention(layer, stream)
        return self._self_attention(layer, stream, None)

    def _cross_attention(self, layer: int, stream: Tensor) -> Tensor:
        rows = stream.flatten(0, 1) if self.own else stream.flatten(1, 2)
        return self.layers.cross(layer, rows).view(stream.shape)

    def _self_attention(self, layer: int, stream: Tensor, seen: Tensor | None) -> Tensor:
        attention = self.layers.layers[layer].attention.self
        flat = stream.flatten(0, 1)  # (P·S, T, D)
        if self.block == "text_decoder" and stream.shape[2] == 1:
            return linear(attention.value, flat).view(stream.shape)
        projections = (attention.query, attention.key, attention.value)
        query, key, value = (split_heads(linear(project, flat), self.layers.heads) for project in projections)
        causal = self.block == "text_decoder"
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, is_causal=causal)
        return context.transpose(1, 2).reshape(stream.shape)

    def _masked(self, layer: int, module: str, stream: Tensor, blocked: Setting) -> Tensor:
        """Contexts where some states' queries do not see some keys; what sees nothing gets nothing."""
        pairs, n_states, length, _ = stream.shape
        hidden = blocked.mask.expand(pairs, -1, -1, -1)  # (P, n, Q, K)
        every = torch.zeros(pairs, n_states, *hidden.shape[2:], dtype=torch.bool, device=stream.device)
        every[:, blocked.states] = hidden
        seen = ~every.flatten(0, 1)[:, None]  # (P·S, 1, Q, K)
        if module == "self_attention":
            context = self._self_attention(layer, stream, seen)
        else:
            assert isinstance(self.layers, QuestionLayers) and not self.own, "knockouts are the question encoder's"
            attention = self.layers.layers[layer].crossattention.self
            key, value = self.layers.keys_values(layer)
            query = split_heads(linear(attention.query, stream).flatten(1, 2), self.layers.heads)  # (P, H, S·T, E)
            mask = seen.view(pairs, 1, n_states * length, -1)
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            context = context.transpose(1, 2).reshape(stream.shape)
        return context.masked_fill(every.all(-1)[..., None], 0)


class VisionStack(Stack):
    """The vision encoder."""

    block = "vision_encoder"

    def __init__(self, source: Trace, base: Trace, given: Interventions, vision: Any):
        """Prepare to run states through it; `vision` is its torch module."""
        super().__init__(source, base, given)
        self.modules = vision.encoder.layers

    def plain(self, layer: int, states: Tensor) -> Tensor:
        """See `Stack.plain`."""
        no_rows = torch.empty(len(states), 0, dtype=torch.long, device=states.device)
        return vision_layer(self.modules[layer], states, None, no_rows, self.base.layer_input("vision_encoder", layer))

    def layer(self, layer: int, states: Tensor | None, skipped: int) -> Tensor:
        """See `Stack.layer`."""
        module, name, stream = self.modules[layer], "self_attention", states
        if Site(self.block, name, layer) not in self.given.overwritten:
            stream = None if states is None else self.plain(layer, states)
        else:
            context = None if stream is None else self._attention(module.self_attn, module.layer_norm1(stream))
            context = self.join(context, self.base[self.block, name, layer], layer, name)
            stream = self.join(stream, self.base.layer_input(self.block, layer), layer, name)
            if context is not None and stream is not None:
                stream = linear(module.self_attn.projection, self.overwrite(context, layer, name, skipped)) + stream
                inner = linear_gelu(module.mlp.fc1, module.mlp.activation_fn, module.layer_norm2(stream))
                stream = linear(module.mlp.fc2, inner) + stream
        stream = self.join(stream, self.base[self.block, "residual", layer], layer, "residual")
        assert stream is not None, "a layer without interventions and states is not run"
        return self.overwrite(stream, layer, "residual", skipped)

    def _attention(self, attention: Any, normed: Tensor) -> Tensor:
        query_key_value = linear(attention.qkv, normed.flatten(0, 1)).chunk(3, dim=-1)
        query, key, value = (split_heads(part, attention.num_heads) for part in query_key_value)
        return attend(query, key, value, attention.scale).view(normed.shape)


class QuestionStack(TextStack):
    """The question encoder, for states that share their pair's image or have one each."""

    layers: QuestionLayers

    def plain(self, layer: int, states: Tensor) -> Tensor:
        """See `Stack.plain`."""
        corrupt = self.base.layer_input(self.block, layer)
        no_rows = torch.empty(len(states), 0, dtype=torch.long, device=states.device)
        if not self.own:
            return self.layers.advance(layer, states, None, no_rows, corrupt)
        flat = states.flatten(0, 1).unsqueeze(1)  # (P·S, 1, T, D)
        return self.layers.advance(layer, flat, None, no_rows, corrupt).view(states.shape)


def repeated(base: Tensor, n: int) -> Tensor:
    """A stream (P, …) once for each of n states: (P, n, …)."""
    return base.unsqueeze(1).expand(-1, n, *base.shape[1:])
