"""Patches that act together, and attention knockouts in decoder-only models, all exact.

A state is the base run until an intervention first does something to it, and it differs from the base run only from
the first position on that the intervention reaches: only layers and positions behind that are run again, by the
model's own layers.

Shapes: P pairs of equal length, S states (interventions) per pair, F of them joining, T positions, L positions that
are run again, D width, K key heads, E their width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vlmtrace.models.hooks import HookPoint, attach_hooks, with_model_lock
from vlmtrace.models.interventions import Interventions, Setting, changed_positions
from vlmtrace.models.layer_kinds import check_can_be_hidden
from vlmtrace.models.products import by_fast_products
from vlmtrace.models.sweep.chunking import in_chunks
from vlmtrace.models.sweep.decoder_only import BLOCK, Replay
from vlmtrace.models.sweep.layer_calls import stream_of
from vlmtrace.models.sweep.layer_sweep import concat_states
from vlmtrace.models.sweep.shared_keys import SharedKeys
from vlmtrace.models.types import AnswerIds, Patches, Readout, Site, Trace, positions_read
from vlmtrace.models.vlm import VLM


@with_model_lock
@torch.no_grad()
@by_fast_products
def intervene(
    model: VLM, source: Trace, base: Trace, given: Interventions, answer_ids: AnswerIds, memory: int
) -> Readout:
    """Answer every intervention in a batch of pairs; see `ModelInterface.intervene`."""
    given = _hidden_where_seen(model, given)
    replay = Replay(model, base)
    starts = given.starts(BLOCK)
    layers = [0 if start is None else start[0] for start in starts]
    reached = changed_positions(_visible(given, replay), source, base, BLOCK, replay.length)  # (P, S, T)
    reached[:, :, -1] |= ~reached.any(-1)  # what does nothing is the base run, whatever is run again
    where = reached.any(0).int().argmax(-1).expand(len(base.logits), -1)
    firsts = replay.first_reached(
        Patches(BLOCK, ["residual"] * len(given), layers, [None] * len(given), where, reached)
    )
    n_read = positions_read(answer_ids)
    firsts = [min(first, replay.length - n_read) for first in firsts]
    readouts, order = [], []
    for first in sorted(set(firsts)):
        mine = [i for i, at in enumerate(firsts) if at == first]
        chosen = sorted(mine, key=lambda i: starts[i] or (len(replay.layers), 0))
        one = replay.state_bytes(first, n_read)
        if given.blocked:
            one += _hiding_bytes(replay)
        size = max(1, (memory - replay.nbytes) // (len(answer_ids) * one))
        run = _Suffix(model, replay, source, base, first)
        readouts.append(in_chunks(given.subset(chosen), size, partial(run.answer, answer_ids=answer_ids)))
        order += chosen
    found = Readout.cat(readouts, dim=1)
    back = torch.tensor(order, device=found.correct.device).argsort()
    return Readout(found.correct[:, back], found.incorrect[:, back], found.log_normalizer[:, back])


def _hiding_bytes(replay: Replay) -> int:
    """What one state of one pair occupies beside its stream where a layer hides keys from it.

    That is the base run's keys and values, copied and then once more before its own, and which of them it sees.
    """
    recorded = [one for one in replay.recorded if one is not None]
    keys = max(((one.key.nbytes + one.value.nbytes) // len(one.key) for one in recorded), default=0)
    element = max((one.key.element_size() for one in recorded), default=4)
    return 2 * keys + replay.length**2 * (1 + element)


def _hidden_where_seen(model: VLM, given: Interventions) -> Interventions:
    """The same interventions, that hide nothing in layers in which no position sees another."""
    kept = check_can_be_hidden(model.name, model.blocks[BLOCK], [site.layer for site in given.blocked])
    blocked = {site: setting for site, setting in given.blocked.items() if site.layer in kept}
    return Interventions(given.n, given.overwritten, blocked)


def _visible(given: Interventions, replay: Replay) -> Interventions:
    """The same interventions, whose blocked keys are only those that a query would see."""
    blocked = {}
    for site, setting in given.blocked.items():
        mask = replay.masks[site.layer]
        if mask is not None:
            seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
            setting = Setting(setting.states, setting.mask & seen.to(setting.mask.device))
        blocked[site] = setting
    return Interventions(given.n, given.overwritten, blocked)


class _Suffix:
    """The interventions whose states differ from the base run from position `first` on."""

    def __init__(self, model: VLM, replay: Replay, source: Trace, base: Trace, first: int):
        self.model, self.replay, self.source, self.base, self.first = model, replay, source, base, first

    def answer(self, given: Interventions, answer_ids: AnswerIds) -> Readout:
        """Readout (P, S) of interventions sorted by where they first act."""
        n_layers = len(self.replay.layers)
        starts = [n_layers if start is None else start[0] for start in given.starts(BLOCK)]
        states: Tensor | None = None  # (P, S, L, D)
        shared = self.replay.pass_from(self.first)
        for layer in range(n_layers):
            here, joining = 0 if states is None else states.shape[1], starts.count(layer)
            blocked = given.blocked.get(Site(BLOCK, "self_attention", layer))
            if blocked is not None:
                # What a mask changes has to be computed: states join before the layer.
                states = concat_states(states, self._entering(layer, joining) if joining else None)
                states = self._advance(layer, states, given, blocked, shared)
                continue
            if states is not None:
                states = self._advance(layer, states, given, None, shared)
            if joining:
                states = concat_states(states, self._join(layer, given, here, joining))
        last = self._rows(self.base[BLOCK, "residual", n_layers - 1])
        if starts.count(n_layers):
            states = concat_states(states, _repeated(last, starts.count(n_layers)))
        assert states is not None, "there is one intervention at least"
        return Readout.of_last(self.model.read(states[:, :, -positions_read(answer_ids) :]), answer_ids)

    def _rows(self, stream: Tensor) -> Tensor:
        return stream[:, self.first :]

    def _entering(self, layer: int, n: int) -> Tensor:
        """What the layer below gives in the base run, for n states (P, n, L, D)."""
        if layer == 0:
            return _repeated(self._rows(self.replay.calls[0].hidden), n)
        return _repeated(self._rows(self.base[BLOCK, "residual", layer - 1]), n)

    def _setting(self, given: Interventions, module: str, layer: int, skipped: int, n: int) -> Setting | None:
        """What is overwritten in `n` states behind the first `skipped`, at positions that are run again."""
        found = given.overwritten.get(Site(BLOCK, module, layer))
        found = None if found is None else found.renumbered({skipped + i: i for i in range(n)})
        return None if found is None else found.from_position(self.first)

    def _over(self, states: Tensor, given: Interventions, module: str, layer: int, skipped: int) -> Tensor:
        found = self._setting(given, module, layer, skipped, states.shape[1])
        return states if found is None else found.over(states, self._rows(self.source[BLOCK, module, layer]))

    def _hooks(
        self, modules: tuple[str, ...], given: Interventions, layer: int, skipped: int, n: int
    ) -> list[tuple[HookPoint, Callable[[Tensor], Tensor]]]:
        """Hooks that overwrite activations of n states inside a layer."""

        def overwrite(value: Tensor, module: str) -> Tensor:
            states = value.reshape(len(self.base.logits), n, -1, value.shape[-1])  # (P, n, L, D)
            return self._over(states, given, module, layer, skipped).reshape(value.shape)

        return [
            (self.model.hook_point(Site(BLOCK, module, layer)), partial(overwrite, module=module))
            for module in modules
            if self._setting(given, module, layer, skipped, n) is not None
        ]

    def _advance(
        self, layer: int, states: Tensor, given: Interventions, blocked: Setting | None, shared: SharedKeys
    ) -> Tensor:
        """One whole layer for states (P, S, L, D) that are under way."""
        self.replay.prepare(layer, self.first)
        hooks = self._hooks(("self_attention", "mlp"), given, layer, 0, states.shape[1])
        if blocked is not None:
            out = self._masked(layer, states, blocked, hooks, shared)
        else:
            with attach_hooks(hooks):
                out = self.replay.advance(layer, states, self.first, shared)
        return self._over(out, given, "residual", layer, 0)

    def _join(self, layer: int, given: Interventions, skipped: int, n: int) -> Tensor:
        """The layer's output (P, n, L, D) of states in which something is overwritten here for the first time."""
        context = self._setting(given, "self_attention", layer, skipped, n)
        if context is None and self._setting(given, "mlp", layer, skipped, n) is None:
            out = _repeated(self._rows(self.base[BLOCK, "residual", layer]), n)
        else:
            heads = None
            if self.model.blocks[BLOCK].has("self_attention", layer):
                heads = _repeated(self._rows(self.base[BLOCK, "self_attention", layer]), n)
                heads = self._over(heads, given, "self_attention", layer, skipped)
            with attach_hooks(self._hooks(("mlp",), given, layer, skipped, n)):
                out = self.replay.rows(layer, slice(self.first, None), heads, None, n)
        return self._over(out, given, "residual", layer, skipped)

    def _masked(self, layer: int, states: Tensor, blocked: Setting, hooks: list, shared: SharedKeys) -> Tensor:
        """One layer in which some states' queries do not see some keys; what sees nothing gets nothing."""
        pairs, n = states.shape[:2]
        added = self.replay.between[layer - 1] if layer else None
        if added is not None:
            states = states + added[:, None, self.first :]
        options = self.replay.options(layer, slice(self.first, None), n)
        hidden = torch.zeros(pairs, n, *blocked.mask.shape[2:], dtype=torch.bool, device=states.device)  # (P, S, T, T)
        here = blocked.among(n)
        assert here is not None, "some state is blocked here"
        hidden[:, here.states] = here.mask.to(hidden.device)
        hidden = hidden[:, :, self.first :].flatten(0, 1)[:, None]  # (P·S, 1, L, T)
        options["attention_mask"] = _hiding(options["attention_mask"], hidden, self.model.dtype)
        blind = hidden.all(-1)[:, 0, :, None]  # (P·S, L, 1)
        if blind.any():
            point = self.model.hook_point(Site(BLOCK, "self_attention", layer))
            hooks = [(point, lambda value: value.masked_fill(blind, 0)), *hooks]
        options["past_key_values"] = _Before(self.replay.recorded[layer], self.first, n)
        options = shared.handed(layer, options, n, whole=True)
        with attach_hooks(hooks):
            out = stream_of(self.replay.layers[layer], states.flatten(0, 1), **options).view(states.shape)
        shared.keep(layer, options, pairs, states.shape[2])
        return out


class _Before:
    """Stands where a layer expects a cache: gives each state the base run's keys and values before its own."""

    def __init__(self, recorded: Any, first: int, n_states: int):
        """Keep what was recorded before position `first`, for each of n states."""
        self.key, self.value = (
            part[:, :, :first].repeat_interleave(n_states, dim=0) for part in (recorded.key, recorded.value)
        )
        self.first = first

    def update(self, key: Tensor, value: Tensor, *_args: Any, **_options: Any) -> tuple[Tensor, Tensor]:
        """Called by the layer with the states' own keys and values (P·S, K, L, E); it goes on with what is returned."""
        return torch.cat([self.key, key], dim=2), torch.cat([self.value, value], dim=2)

    def get_seq_length(self, *_args: Any) -> int:
        """How many positions come before those of the states; some layers scale their queries by it."""
        return self.first


def _hiding(mask: Tensor | None, hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask (P·S, 1, L, T), added to the scores, that also forbids what is hidden; given one for each pair."""
    low = torch.finfo(dtype).min
    if mask is None:
        mask = torch.zeros(1, 1, 1, 1, dtype=dtype, device=hidden.device)
    elif mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, low)
    hidden = hidden.to(mask.device)  # where layers lie on several devices
    if len(mask) > 1:
        mask = mask.repeat_interleave(len(hidden) // len(mask), dim=0)
    return mask.expand(hidden.shape).masked_fill(hidden, low)


def _repeated(base: Tensor, n: int) -> Tensor:
    """A stream (P, L, D) once for each of n states: (P, n, L, D)."""
    return base.unsqueeze(1).expand(-1, n, *base.shape[1:])
