"""A run of a decoder-only model's layers, ready to be taken up at any layer and position.

Shapes: P pairs of equal length, S states (patches) per pair, T positions, L positions that are run again, R positions
that are read out, D width.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vlmtrace.models.hooks import HookPoint, attach_hooks
from vlmtrace.models.layer_kinds import (
    ATTENTION,
    CROSS_ATTENTION,
    NO_ATTENTION,
    OWN_EMBEDDINGS,
    SHARED_KEYS,
    STATE,
    WITHOUT_KEYS,
    key_sources,
    records_keys,
)
from vlmtrace.models.sweep.carried_states import CarriedStates
from vlmtrace.models.sweep.kept_keys import Prefix, Recorded, Recorder
from vlmtrace.models.sweep.layer_calls import (
    for_each_state,
    image_rows,
    options_at,
    stream_of,
    with_image,
    without_image,
)
from vlmtrace.models.sweep.layer_masks import BLOCK, masks_of, seen
from vlmtrace.models.sweep.shared_keys import SharedKeys
from vlmtrace.models.sweep.shared_prefix import no_attention, shared_prefixes
from vlmtrace.models.types import Patches, Site, Trace
from vlmtrace.models.vlm import VLM

#: What a state space model calls the bounds of its steps, which it keeps only where positions come as a sequence.
BOUNDED_STEP = "time_step_limit"


class Replay:
    """The corrupt run of the language model, ready to be taken up at any layer and position.

    Attributes:
        kinds: by layer, how it gets to know what stands elsewhere, see `vlmtrace.models.layer_kinds`
        masks: by layer, what each position sees: (1 or P, 1, T, T), bool or added to the scores; None: everything
        recorded: by layer, keys and values of all positions; of a layer that looks at the image alone, those of the
            image; None: it carries a state, is a feed-forward alone, or makes those of the image anew
        between: by layer, what the model adds between this layer's output and the next one's input, None: nothing
    """

    def __init__(self, model: VLM, corrupt: Trace):
        """Take over what the trace recorded; where it recorded no keys and values, run every layer once to do so.

        Args:
            model: with visual tokens
            corrupt: trace of the corrupt runs, with `calls`
        """
        self.model, self.calls = model, corrupt.calls
        block = model.blocks[BLOCK]
        self.layers = [model.layer_module(BLOCK, i) for i in range(block.n_layers)]
        self.kinds = [block.kind_at(i) for i in range(block.n_layers)]
        attentions = [
            model.attention_module(Site(BLOCK, "self_attention", i)) if block.has("self_attention", i) else None
            for i in range(block.n_layers)
        ]
        self._steps = [hasattr(attention, BOUNDED_STEP) for attention in attentions]
        self._records = [records_keys(*layer) for layer in zip(attentions, self.kinds, strict=True)]
        cross = [i for i, kind in enumerate(self.kinds) if kind == CROSS_ATTENTION]
        self._anew = [i for i in cross if not self._records[i]]  # layers that make the image's keys in every run
        self.sources = key_sources(attentions)
        self._passed_as = [str(getattr(attention, "layer_type", "")) for attention in attentions]
        self.length = corrupt.calls[0].hidden.shape[1]
        self.masks = masks_of(model, corrupt.calls)
        self.recorded: list[Recorder | None] = []
        self.between: list[Tensor | None] = []
        self.nbytes = 0
        self._seen: dict[tuple[int, int], tuple[Tensor, bool, bool]] = {}
        self._carried: dict[int, tuple[int, CarriedStates]] = {}
        for i, call in enumerate(self.calls):
            recorder, out = call.recorder, corrupt.activations.get(Site(BLOCK, "residual", i))
            if out is None or (recorder is None and self._records[i]):
                recorder, out = self._record(i)
            source = self.sources[i]
            self.recorded.append(recorder if source is None else self.recorded[source])
            adds = model.adds_image_features_after(i) and i + 1 < len(self.layers)
            self.between.append(self.calls[i + 1].hidden - out if adds else None)

    def _record(self, layer: int) -> tuple[Recorder | None, Tensor]:
        call, recorder = self.calls[layer], Recorder() if self._records[layer] else None
        options = {**call.options, "past_key_values": recorder}
        if self.kinds[layer] == ATTENTION:
            options["attention_mask"] = self.masks[layer]
        out = stream_of(self.layers[layer], call.hidden, **options)
        self.nbytes += recorder.nbytes if recorder else 0  # beside what the trace holds
        return recorder, out

    def pass_from(self, first: int) -> SharedKeys:
        """What layers give each other in one pass of states that start with position `first`."""
        return SharedKeys(self.sources, self._passed_as, self.recorded, first)

    def first_reached(self, patches: Patches) -> list[int]:
        """For each patch, the first position whose state it can change in any layer above."""
        device = self.calls[0].hidden.device
        if any(mask is None for mask in self.masks[1:]):
            return [0] * len(patches)
        if patches.position_masks is None:
            reached = torch.zeros(len(patches), self.length, dtype=torch.bool, device=device)  # (S, T)
            reached[torch.arange(len(patches), device=device), patches.positions[0].to(device)] = True
        else:
            reached = patches.position_masks.any(0).to(device)
        if not self._looks_ahead():
            if patches.position_masks is None:
                return patches.positions[0].tolist()
            return reached.int().argmax(-1).tolist()
        starts, of_patch = reached.unique(dim=0, return_inverse=True)
        found = [self._first_reached(start) for start in starts]
        return [found[i] for i in of_patch.tolist()]

    def first_changed(self, entering: Tensor) -> int:
        """The first position that can differ in any layer, where positions (T,) bool differ as they enter layer 0."""
        if any(mask is None for mask in self.masks):
            return 0
        return self._first_reached(entering, 0) if self._looks_ahead(0) else int(entering.int().argmax())

    def _looks_ahead(self, lowest: int = 1) -> bool:
        """Whether a mask lets a position see a later one; if none does, a patch changes nothing before itself."""
        distinct = {id(mask): mask for mask in self.masks[lowest:] if mask is not None}
        return any(bool(seen(mask).triu(1).any()) for mask in distinct.values())

    def _first_reached(self, reached: Tensor, lowest: int = 1) -> int:
        for mask in self.masks[lowest:]:
            assert mask is not None
            reached = reached | (seen(mask).to(reached.device) & reached).any(-1).any(0)[0]
        return int(reached.nonzero()[0])

    def state_bytes(self, first: int, n_read: int = 1) -> int:
        """What one state of one pair occupies at the peak of a layer, and where logits of n positions are read out."""
        text = self.model.hf.config.get_text_config()
        rows = self.length - first
        elements = rows * (8 * text.hidden_size + 3 * _inner_width(text)) + 2 * n_read * text.vocab_size
        elements += _scan_elements(text, rows)
        size = max(4, self.calls[0].hidden.element_size())
        scored = rows if self.scores_own_only(first) else self.length
        image = [kept.key.shape[2] for kept in self.recorded if kept is not None and kept.key.ndim == 4]
        anew = max((image_rows(self.calls[i].options) for i in self._anew), default=0)
        scored = max(scored, anew, *image) if CROSS_ATTENTION in self.kinds else scored
        elements += 3 * anew * text.hidden_size  # the image, its keys and its values
        # Scores and their softmax in float32, and in the model's own precision.
        return (elements + 3 * rows * scored * self.model.blocks[BLOCK].n_heads) * size

    def scores_own_only(self, first: int) -> bool:
        """Whether scores of the keys before `first` are never in memory as a whole, in any layer."""
        if self.calls[0].hidden.device.type != "cpu" or self._caps_scores():
            return False
        return all(
            kind in WITHOUT_KEYS or (kind == ATTENTION and self._has_even_heads(i) and self.sees_all_before(i, first))
            for i, kind in enumerate(self.kinds)
        )

    def _has_even_heads(self, layer: int) -> bool:
        """Whether values are as wide as keys, as the processor's fused attention needs them."""
        kept = self.recorded[layer]
        return kept is not None and kept.key.shape[-1] == kept.value.shape[-1]

    def _caps_scores(self) -> bool:
        return getattr(self.model.hf.config.get_text_config(), "attn_logit_softcapping", None) is not None

    def sees_all_before(self, layer: int, first: int) -> bool:
        """Whether every position from `first` on sees all before it, in a layer, with nothing added to the scores."""
        mask = self.masks[layer]
        return mask is None or first == 0 or self._known(mask, first)[0]

    def is_causal_from(self, layer: int, first: int) -> bool:
        """Whether positions from `first` on see each other just as far as they come earlier, in a layer."""
        mask = self.masks[layer]
        return mask is not None and self._known(mask, first)[1]

    def _known(self, mask: Tensor, first: int) -> tuple[bool, bool]:
        known = self._seen.get((id(mask), first))
        if known is None:
            visible = mask if mask.dtype == torch.bool else mask == 0
            before, own = visible[:, :, first:, :first].all(), visible[:, :, first:, first:]
            causal = (own == torch.ones_like(own).tril()).all() & (seen(mask)[:, :, first:, first:] == own).all()
            # The mask is kept beside the answers, so that no other can take its id.
            known = self._seen[id(mask), first] = (mask, bool(before), bool(causal))
        return known[1:]

    def options(self, layer: int, rows: slice, repeats: int) -> dict[str, Any]:
        """What a layer is called with for some query rows of `repeats` states per pair; masks stay one per pair."""
        n_pairs = len(self.calls[layer].hidden)

        def chosen(value: Tensor, dim: int) -> Tensor:
            return for_each_state(value[(slice(None),) * dim + (rows,)], repeats, n_pairs)

        return self._options(layer, rows, chosen)

    def _options(self, layer: int, rows: slice | Tensor, chosen: Callable[[Tensor, int], Tensor]) -> dict[str, Any]:
        given = self.calls[layer].options
        options = options_at(given, self.length, chosen)
        if SHARED_KEYS in options:
            # A layer writes into it: those of the run stay as they are.
            options[SHARED_KEYS] = copy.copy(options[SHARED_KEYS])
        if self.kinds[layer] == ATTENTION:
            mask = self.masks[layer]
            at = rows.to(mask.device) if isinstance(rows, Tensor) and mask is not None else rows
            options["attention_mask"] = None if mask is None else mask[:, :, at]
        elif self.kinds[layer] == CROSS_ATTENTION and given.get("cross_attention_mask") is not None:
            mask = given["cross_attention_mask"]
            options["cross_attention_mask"] = mask[:, :, rows.to(mask.device) if isinstance(rows, Tensor) else rows]
        return options

    def prepare(self, layer: int, first: int) -> None:
        """Run what `advance` needs of a layer's positions before `first`: to be called before hooks are attached."""
        if self.kinds[layer] != STATE or not first or self._carried.get(layer, (None,))[0] == first:
            return
        carried = CarriedStates()
        options = {**self.options(layer, slice(0, first), 1), "past_key_values": carried}
        stream_of(self.layers[layer], self.calls[layer].hidden[:, :first], **options)
        # Of one position at a time: patches come in the order of their first positions.
        self._carried[layer] = first, carried

    def carried(self, layer: int, first: int, n_states: int) -> CarriedStates | None:
        """What a layer with a state has in it at position `first`, for each of n states; None: nothing comes before."""
        self.prepare(layer, first)
        return self._carried[layer][1].repeated(n_states) if first else None

    def advance(self, layer: int, states: Tensor, first: int, shared: SharedKeys) -> Tensor:
        """One whole layer for positions from `first` on: outputs of the layer below (P, S, L, D) -> (P, S, L, D).

        Args:
            layer: the one that runs
            states: outputs of the layer below
            first: the position that they start with
            shared: of this pass, from `pass_from`
        """
        states = self._entering(layer, states, first)
        n_states = states.shape[1]
        options = self.options(layer, slice(first, None), n_states)
        rows = states.flatten(0, 1)  # (P·S, L, D): a layer takes all states as one batch.
        recorded = self.recorded[layer]
        if layer in self._anew:
            return stream_of(self.layers[layer], rows, **with_image(options, n_states)).view(states.shape)
        if recorded is None:
            return self._advance_without_keys(layer, rows, options, first, n_states).view(states.shape)
        if self.kinds[layer] == CROSS_ATTENTION:
            prefix = Prefix.of_image(recorded, n_states)
            options = without_image(options, len(rows))
        else:
            prefix = Prefix(recorded, first, self.sees_all_before(layer, first), self.is_causal_from(layer, first))
            options = shared.handed(layer, options, n_states)
        with shared_prefixes(self.model.hf, prefix):
            out = stream_of(self.layers[layer], rows, **{**options, "past_key_values": prefix})
        shared.keep(layer, options, len(states), states.shape[2])
        return out.view(states.shape)

    def _advance_without_keys(
        self, layer: int, rows: Tensor, options: dict[str, Any], first: int, n_states: int
    ) -> Tensor:
        """A layer that carries a state, or is a feed-forward alone, on rows (P·S, L, D) from `first` on."""
        if self.kinds[layer] == NO_ATTENTION or not first:
            return stream_of(self.layers[layer], rows, **{**options, "past_key_values": None})
        carried = self.carried(layer, first, n_states)
        length = rows.shape[1]
        if length == 1 and self._steps[layer]:
            # A position that comes alone is stepped to without the bounds that steps of a whole sequence have: another
            # behind it, which it does not see, keeps it a sequence.
            rows = rows.repeat(1, 2, 1)
            options = options_at(options, 1, lambda value, dim: value.repeat_interleave(2, dim))
        return stream_of(self.layers[layer], rows, **{**options, "past_key_values": carried})[:, :length]

    def advance_read(self, layer: int, states: Tensor, first: int, n_read: int, shared: SharedKeys) -> Tensor:
        """As `advance`, for the last positions alone: (P, S, L, D) -> (P, S, R, D).

        Above the last layer nothing sees the other positions: of them it computes no more than keys and values.

        Args:
            layer: the last
            states: outputs of the layer below
            first: the position that they start with
            n_read: how many last positions
            shared: of this pass, from `pass_from`
        """
        length, start = states.shape[2], self.length - n_read
        if length == n_read:
            return self.advance(layer, states, first, shared)
        if self.kinds[layer] == STATE:
            return self.advance(layer, states, first, shared)[:, :, -n_read:]
        if self.kinds[layer] in (CROSS_ATTENTION, NO_ATTENTION):
            return self.advance(layer, states[:, :, -n_read:], start, shared)
        states = self._entering(layer, states, first)
        recorder, recorded = Recorder(stops=True, start=first), self.recorded[layer]
        assert recorded is not None, "attention has keys"
        if self.sources[layer] is None:
            options = self.options(layer, slice(first, None), states.shape[1])
            with contextlib.suppress(Recorded):
                self.layers[layer](states.flatten(0, 1), **{**options, "past_key_values": recorder})
        options = shared.handed(layer, self.options(layer, slice(start, None), states.shape[1]), states.shape[1])
        prefix = Prefix(recorded, first, self.sees_all_before(layer, first), own=recorder, start=start)
        read = states[:, :, -n_read:]
        with shared_prefixes(self.model.hf, prefix):
            out = stream_of(self.layers[layer], read.flatten(0, 1), **{**options, "past_key_values": prefix})
        return out.view(read.shape)

    def _entering(self, layer: int, states: Tensor, first: int) -> Tensor:
        """What enters a layer, given the outputs of the layer below from `first` on."""
        added = self.between[layer - 1] if layer else None
        return states if added is None else states + added[:, None, first:]

    def rows(
        self, layer: int, rows: slice, context: Tensor | None, mlp: Tensor | None, n_states: int | None = None
    ) -> Tensor:
        """A layer's output at some rows, given the heads' outputs and maybe the feed-forward's: (P, S, rows, D) each.

        The layer itself runs, on those rows; what its attention computes is overwritten by `context`.

        Args:
            layer: which
            rows: of the sequence
            context: the heads' outputs; None: the layer has no attention
            mlp: the feed-forward's output; None: as the layer computes it
            n_states: S, where neither is given
        """
        n_states = n_states or next(given.shape[1] for given in (context, mlp) if given is not None)
        options = self.options(layer, rows, n_states)
        hidden = self.calls[layer].hidden[:, rows].repeat_interleave(n_states, dim=0)  # (P·S, rows, D)
        mlp = None if mlp is None else mlp.flatten(0, 1)
        context = None if context is None else context.flatten(0, 1)
        return self._with_context(layer, hidden, options, context, mlp).unflatten(0, (-1, n_states))

    def single_rows(self, layer: int, positions: Tensor, context: Tensor | None, mlp: Tensor | None) -> Tensor:
        """As `rows`, with one row per state: the layer takes the states of a pair as if they were one sequence.

        Args:
            layer: which
            positions: (S,), each state's row
            context: (P, S, D); None: the layer has no attention
            mlp: (P, S, D), or None

        Returns:
            (P, S, D)
        """

        def chosen(value: Tensor, dim: int) -> Tensor:
            return value.index_select(dim, positions.to(value.device))

        options = self._options(layer, positions, chosen)
        hidden = self.calls[layer].hidden
        return self._with_context(layer, hidden[:, positions.to(hidden.device)], options, context, mlp)

    def past_heads(self, layer: int, rows: slice, hidden: Tensor, context: Tensor | None) -> Tensor:
        """What leaves a layer of any states whose heads give what they are told: (N, rows, D) each.

        Args:
            layer: which
            rows: the positions; all, where the layer carries a state
            hidden: what enters the layer
            context: the heads' outputs; None: the layer has no heads
        """
        return self._with_context(layer, hidden, self.options(layer, rows, len(hidden)), context, None)

    def past_nodes(
        self, layer: int, rows: slice, hidden: Tensor, context: Tensor, mlp: Tensor, embedded: Tensor | None = None
    ) -> Tensor:
        """What leaves a layer of any states whose heads and feed-forward give what they are told: (N, rows, D) each.

        Args:
            layer: which
            rows: the positions
            hidden: what enters the layer
            context: the heads' outputs
            mlp: the feed-forward's
            embedded: what the layer is given of the input's embeddings beside the stream, (N, rows, P); None: the run's
        """
        options = self.options(layer, rows, len(hidden))
        if embedded is not None:
            options[OWN_EMBEDDINGS] = embedded
        return self._with_context(layer, hidden, options, context, mlp)

    def _with_context(
        self, layer: int, hidden: Tensor, options: dict[str, Any], context: Tensor | None, mlp: Tensor | None
    ) -> Tensor:
        points: list[tuple[HookPoint, Any]] = [
            (self.model.hook_point(Site(BLOCK, module, layer)), partial(_laid_as, given))
            for module, given in (("self_attention", context), ("mlp", mlp))
            if given is not None
        ]
        options = without_image({**options, "attention_mask": None}, len(hidden))
        with no_attention(self.model.hf), attach_hooks(points):
            return stream_of(self.layers[layer], hidden, **options)


def _laid_as(given: Tensor, found: Tensor) -> Tensor:
    """Rows of an activation (…, D) in the dimensions of those that they replace: OPT's lie one behind the other."""
    return given.reshape(*found.shape[:-1], given.shape[-1])


def _scan_elements(text: Any, rows: int) -> int:
    """Numbers that the scan of a state space model holds of some rows: for each head, scores within whole chunks."""
    chunk, heads = getattr(text, "chunk_size", None), getattr(text, "mamba_num_heads", None)
    if not chunk or not heads:
        return 0
    return -(-rows // chunk) * chunk * heads * 4 * (chunk + text.ssm_state_size + text.mamba_head_dim)


def _inner_width(text: Any) -> int:
    """The width inside the feed-forward, of a text configuration; the largest where layers or experts differ."""
    names = ("intermediate_size", "intermediate_size_mlp", "moe_intermediate_size", "ffn_dim")
    found = [getattr(text, name, None) for name in names]
    widths = [width for size in found if size for width in (size if isinstance(size, (list, tuple)) else [size])]
    return max(widths, default=4 * text.hidden_size)
