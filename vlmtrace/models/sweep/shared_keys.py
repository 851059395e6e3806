"""Keys and values that layers take from a lower layer, for the states of one pass through the layers.

In some models the upper layers make no keys and values of their own: they read those of the last layer below that has
the same kind of attention. What a patch changes there they see, too; the states that are patched further up see those
of the corrupt run.

Shapes: P pairs, S states (patches) per pair, M of them under way when the lower layer ran, L positions that are run
again, K key heads, E width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlmtrace.models.layer_kinds import SHARED_KEYS
from vlmtrace.models.sweep.kept_keys import Recorder

#: Keys and values.
Pair = tuple[Tensor, Tensor]


class SharedKeys:
    """What the layers of one pass give each other, where they share keys and values; else nothing."""

    def __init__(self, sources: list[int | None], kinds: list[str], recorded: list[Recorder | None], first: int):
        """Begin a pass: no layer has run yet.

        Args:
            sources: by layer, the lower one whose keys and values it reads; None: its own
            kinds: by layer, the name under which keys and values are passed on
            recorded: by layer, those of the corrupt run
            first: the position that the states start with
        """
        self.sources, self.kinds, self.recorded, self.first = sources, kinds, recorded, first
        self._made: dict[int, Pair] = {}  # by the layer that made them, (P, M, K, L, E) each

    def handed(self, layer: int, options: dict[str, Any], n_states: int, whole: bool = False) -> dict[str, Any]:
        """The options of a layer's call, with what it reads of a lower layer for all of its states.

        Args:
            layer: the one that is to run
            options: what it is called with
            n_states: per pair; those that have joined since the lower layer ran see the corrupt run's
            whole: with the keys before `first`, where nothing else brings them
        """
        if SHARED_KEYS not in options:
            return options
        # Of the model's own class: accelerate hands on a copy of a dict, and what the layer puts into it would be lost.
        given, source = type(options[SHARED_KEYS])(), self.sources[layer]
        if source is not None:
            kept, made = self.recorded[source], self._made.get(source)
            assert kept is not None, "a layer that is read from has keys"
            parts = []
            for i, base in enumerate((kept.key, kept.value)):
                mine = base[:, None, :, self.first :]  # (P, 1, K, L, E)
                known = 0 if made is None else made[i].shape[1]
                rest = mine.expand(-1, n_states - known, -1, -1, -1)
                of_states = rest if made is None else torch.cat([made[i], rest], dim=1)  # (P, S, K, L, E)
                if whole:
                    before = base[:, None, :, : self.first].expand(-1, n_states, -1, -1, -1)
                    of_states = torch.cat([before, of_states], dim=3)
                parts.append(of_states.flatten(0, 1))
            given[self.kinds[layer]] = (parts[0], parts[1])
        return {**options, SHARED_KEYS: given}

    def keep(self, layer: int, options: dict[str, Any], n_pairs: int, length: int) -> None:
        """Remember what a layer has made for those above it.

        Args:
            layer: the one that has run
            options: what it was called with, from `handed`
            n_pairs: of the batch
            length: how many positions were run again: the last of the keys that it used
        """
        if layer not in self.sources:
            return
        key, value = options[SHARED_KEYS][self.kinds[layer]]
        self._made[layer] = (
            key[:, :, -length:].unflatten(0, (n_pairs, -1)),
            value[:, :, -length:].unflatten(0, (n_pairs, -1)),
        )
