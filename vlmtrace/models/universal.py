"""Models that are patched by whole forward passes in batches, since no faster way is known to be exact for them.

`BatchedSweeps` is what all of them share. `UniversalDecoder` has image tokens in its text sequence, as `DecoderOnly`,
but its layers may do what they like. `GuessedDecoder` is of a type that no family describes: it is patched by the fast
sweep if that proves exact in every layer, and else by batches.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.decoder_only import DecoderOnly
from vlmtrace.models.families import FamilySpec
from vlmtrace.models.hooks import HookPoint, attach_hooks
from vlmtrace.models.image_prompts import ImagePrompts
from vlmtrace.models.interventions import Interventions
from vlmtrace.models.layer_kinds import ATTENTION, kinds_in
from vlmtrace.models.sweep import universal as universal_sweep
from vlmtrace.models.sweep.replay_check import (
    check_replay,
    largest_difference,
    leave_out_unknown_vision_encoder,
    tolerance,
)
from vlmtrace.models.types import AnswerIds, Inputs, Patches, Readout, Site, Trace
from vlmtrace.models.vlm import VLM

#: Whose sequence the image's tokens stand in.
LANGUAGE = "language_model"

#: Bytes for the states in which the two ways to patch are compared for a guessed model.
COMPARED_AT_ONCE = 2**28

#: What a model is asked when it is tried out.
PROMPT = "is this a or b?"


def noise(seed: int) -> Image.Image:
    """An image of noise, always the same for a seed."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8))


class BatchedSweeps(VLM):
    """Patches by batches of whole forward passes; see `vlmtrace.models.sweep.universal`."""

    engine = "whole passes in batches"
    falls_back_to_reference = True
    sweeps_regions = True
    fixes_heads = False

    def sweep_unsupported_reason(self, inputs: Inputs) -> str | None:
        """Nothing: whatever the model takes, it runs."""
        return None

    def sweep(
        self, clean: Trace, corrupt: Trace, inputs: Inputs, patches: Patches, answer_ids: AnswerIds, memory: int
    ) -> Readout:
        """See `vlmtrace.models.sweep.universal`."""
        return universal_sweep.sweep(self, clean, corrupt, inputs, patches, answer_ids, memory)

    def intervenes_in(self, interventions: Interventions) -> bool:
        """All but knockouts of attention, which hooks do."""
        return not interventions.blocked

    def intervene(
        self,
        source: Trace,
        base: Trace,
        inputs: Inputs,
        interventions: Interventions,
        answer_ids: AnswerIds,
        memory: int,
    ) -> Readout:
        """See `vlmtrace.models.sweep.universal`."""
        return universal_sweep.intervene(self, source, base, inputs, interventions, answer_ids, memory)

    def run_with_fixed_heads(
        self, clean: Trace, corrupt: Trace, keep_clean: dict[str, Tensor], start: str, answer_ids: AnswerIds
    ) -> Readout:
        """Nothing is faster here than the hooked reference, see `fixes_heads`."""
        raise VlmtraceError(f"{self.name} has no fast path for fixed heads: run them with hooks.")

    def _say_slower(self) -> None:
        warnings.warn(
            f"{self.name} is patched by whole forward passes in batches: the numbers are exact, but a sweep takes "
            "several times as long as one that runs only what a patch can reach.",
            stacklevel=4,
        )


class UniversalDecoder(BatchedSweeps, DecoderOnly):
    """A model with image tokens in its text sequence, whose layers may do more than pass on one residual stream."""

    #: Whether `read` gives the model's logits; None: not tried yet.
    reads: bool | None = None

    def __init__(self, name: str, hf: Any, processor: Any, family: FamilySpec | None = None):
        """See `DecoderOnly`; what the configuration says of layers that do not simply attend is kept."""
        super().__init__(name, hf, processor, family)
        language = self.blocks[LANGUAGE]
        kinds = kinds_in(hf.config.get_text_config(), language.n_layers)
        if set(kinds) - {ATTENTION}:
            self.blocks[LANGUAGE] = dataclasses.replace(language, kinds=kinds, attention_modules=())

    @checked
    def trace(self, inputs: Inputs, sites: Sequence[Site] | None = None, image: Tensor | None = None) -> Trace:
        """See `VLM.trace`."""
        return ImagePrompts.trace(self, inputs, sites, image)

    @property
    def stacks(self) -> list[tuple[str, list[nn.Module]]]:
        """See `ModelInterface.stacks`; layers of a vision encoder that is not offered for patching are skipped, too."""
        if "vision_encoder" in self.blocks or not len(self.vision_layers):
            return super().stacks
        return [("vision_encoder", list(self.vision_layers)), *super().stacks]

    def entry_point(self, block: str) -> HookPoint:
        """See `ModelInterface.entry_point`."""
        return super().entry_point(block)._replace(stream_axis=self._stream_axis(block))

    def hook_point(self, site: Site) -> HookPoint:
        """See `DecoderOnly.hook_point`."""
        return super().hook_point(site)._replace(stream_axis=self._stream_axis(site.block))

    def _stream_axis(self, block: str) -> int | None:
        return self.family.stream_axis if block == LANGUAGE else None

    def last_logits(self, inputs: Inputs, n: int, image: Tensor | None = None) -> Tensor:
        """See `DecoderOnly.last_logits`; all layers run all positions, which `logits_to_keep` might spare some of."""
        points: list[Any] = []
        head = self.hf.get_output_embeddings()
        if head is not None:
            points.append((HookPoint(head, is_input=True), lambda hidden: hidden[:, -n:]))
        if image is not None:
            where = self.is_image(inputs)[..., None]
            points.append(
                (self.entry_point(LANGUAGE), lambda stream: stream.masked_scatter(where, image.to(stream.dtype)))
            )
        run = self.hf if self.sees(inputs) else self.hf.get_submodule(self.family.text_only)
        with attach_hooks(points):
            return run(**inputs, use_cache=False).logits[:, -n:].float()

    def image_embeddings(self, inputs: Inputs) -> Tensor:
        """See `DecoderOnly.image_embeddings`; of several streams, those of all."""
        kept: list[Tensor] = []

        def keep(stream: Tensor) -> None:
            kept.append(stream[self.is_image(inputs)].unflatten(0, (len(stream), -1)))

        with attach_hooks([(self.entry_point(LANGUAGE), keep)]):
            self.last_logits(inputs, 1)
        return kept[0]

    def sees(self, inputs: Inputs) -> bool:
        """Whether inputs hold an image, under whatever name."""
        return bool(set(inputs) - {"input_ids", *self.family.token_fills})

    def check_layers(self, trace: Trace, inputs: Inputs) -> None:
        """Whether image tokens are found, and positions are those of the sequence; and whether the readout is known.

        Raises:
            VlmtraceError: they are not
        """
        if not self.is_image(inputs).any():
            raise VlmtraceError(
                f"{self.name} is not supported: its prompts hold no token that stands for the image, so that it is not "
                "known where the image enters."
            )
        leave_out_unknown_vision_encoder(self, trace, inputs)
        self.reads = self._find_readout(trace)
        self._say_slower()

    def _find_readout(self, trace: Trace) -> bool:
        """Whether `read` gives the model's logits, with or without the cap that the configuration names."""
        last = trace[LANGUAGE, "residual", self.blocks[LANGUAGE].n_layers - 1][:, -1]  # (1, D)
        for caps in (self.family.caps_logits, not self.family.caps_logits):
            self.family = dataclasses.replace(self.family, caps_logits=caps)
            try:
                logits = self.scaled(self.hf.get_output_embeddings()(super().final_norm(last)))
                worst = largest_difference(logits, trace.logits)
            except (AttributeError, RuntimeError, TypeError):
                return False  # several streams, or no final norm and unembedding of the usual kind
            if worst <= tolerance(self, trace.logits):
                return True
        return False

    @property
    def final_norm(self) -> nn.Module:
        """See `DecoderOnly.final_norm`."""
        self._refuse_unread()
        return super().final_norm

    def read(self, hidden: Tensor) -> Tensor:
        """See `DecoderOnly.read`."""
        self._refuse_unread()
        return super().read(hidden)

    def unembed(self, normed: Tensor) -> Tensor:
        """See `DecoderOnly.unembed`."""
        self._refuse_unread()
        return super().unembed(normed)

    def _refuse_unread(self) -> None:
        if self.reads is None:
            inputs = self.encode([noise(0)], [self.prompt_text(PROMPT)])
            last = [Site(LANGUAGE, "residual", self.blocks[LANGUAGE].n_layers - 1)]
            with torch.no_grad():
                self.reads = self._find_readout(self.trace(inputs, last))
        if not self.reads:
            raise VlmtraceError(
                f"The logits of {self.name} are more than final norm and unembedding of its last layer, so that words "
                "cannot be read off its layers: use patching, knockouts or attention."
            )


class GuessedDecoder(UniversalDecoder):
    """A model of a type that no family describes, whose parts were guessed (see `vlmtrace.models.families.guess`).

    Attributes:
        replays: whether the fast sweep of `DecoderOnly` is used, which was then compared with batches of whole passes
            in every layer and module; where a model loads without its check it is not
    """

    replays: bool = False

    @property
    def image_placeholder(self) -> str:
        """See `ImagePrompts.image_placeholder`; where the processor does not say, the image token itself."""
        token = getattr(self.processor, "image_token", None)
        token = self.tokenizer.convert_ids_to_tokens(self._image_id()) if token is None else token
        return getattr(token, "content", token)

    def is_image(self, inputs: Inputs) -> Tensor:
        """See `ImagePrompts.is_image`."""
        return inputs["input_ids"] == self._image_id()

    def _image_id(self) -> int:
        sources = [self.hf.config, self.processor]
        names = ("image_token_id", "image_token_index", "image_patch_id")
        found = (getattr(source, name, None) for source in sources for name in names)
        return next((token for token in found if isinstance(token, int)), -1)

    @checked
    def trace(self, inputs: Inputs, sites: Sequence[Site] | None = None, image: Tensor | None = None) -> Trace:
        """See `VLM.trace`; also keeps what the fast sweep needs, where it is used."""
        return (DecoderOnly if self.replays else ImagePrompts).trace(self, inputs, sites, image)

    def check_layers(self, trace: Trace, inputs: Inputs) -> None:
        """Say what was guessed, and find out by which sweep the model can be patched.

        Raises:
            VlmtraceError: as `UniversalDecoder.check_layers`
        """
        super().check_layers(trace, inputs)
        with torch.no_grad():
            self.replays = self.fixes_heads = self._replay_is_exact(inputs)
        spec = self.family
        warnings.warn(
            f"{self.name} is a {spec.architecture}, which vlmtrace does not know. Its parts were guessed: text layers "
            f"{spec.text}.layers, final norm {spec.norm or 'unknown'}, in a layer {' or '.join(spec.attention_output)} "
            f"and {spec.mlp}. Its vision encoder is not offered for patching, and places in the image are not known. "
            + (
                "The fast sweep gives the numbers of whole passes in all of its layers, and is used."
                if self.replays
                else "The fast sweep does not fit its layers: it is patched by whole passes in batches, which takes "
                "several times as long."
            ),
            stacklevel=3,
        )

    def _say_slower(self) -> None:
        """Nothing yet: it is not known before the fast sweep was tried."""

    def _replay_is_exact(self, inputs: Inputs) -> bool:
        """Whether the fast sweep gives the numbers of whole passes in every layer and module."""
        other = self.encode([noise(2)], [self.prompt_text(PROMPT)])
        self.replays = True
        try:
            clean, corrupt = self.trace(other), self.trace(inputs)
            check_replay(self, corrupt, inputs)
            ids = corrupt.logits.topk(2).indices
            tried = self._tried(self.is_image(inputs)[0])
            fast = DecoderOnly.sweep(self, clean, corrupt, inputs, tried, ids, COMPARED_AT_ONCE)
            slow = universal_sweep.sweep(self, clean, corrupt, inputs, tried, ids, COMPARED_AT_ONCE)
        except Exception:  # whatever layers of an unknown kind raise over being run by themselves
            return False
        finally:
            self.replays = False
        worst = max(
            largest_difference(getattr(fast, name), getattr(slow, name))
            for name in ("correct", "incorrect", "log_normalizer")
        )
        return worst <= tolerance(self, corrupt.logits)

    def _tried(self, is_image: Tensor) -> Patches:
        """Every layer and module, and a head of each, at the image's first position, behind it, and at the last."""
        block, length = self.blocks[LANGUAGE], len(is_image)
        image = is_image.nonzero()[:, 0]
        places = sorted({int(image[0]), min(int(image[-1]) + 1, length - 1), length - 1})
        layers = range(block.n_layers)
        kinds: list[tuple[str, int, int | None]]
        kinds = [(module, layer, None) for module in block.modules for layer in layers]
        kinds += [(module, layer, block.heads_at(layer) - 1) for module in block.head_modules for layer in layers]
        return Patches(
            LANGUAGE,
            [module for module, _, _ in kinds for _ in places],
            [layer for _, layer, _ in kinds for _ in places],
            [head for _, _, head in kinds for _ in places],
            torch.tensor([places * len(kinds)], device=is_image.device),
        )

    def sweep(
        self, clean: Trace, corrupt: Trace, inputs: Inputs, patches: Patches, answer_ids: AnswerIds, memory: int
    ) -> Readout:
        """By the fast sweep where it proved exact, of runs that were traced for it."""
        way = DecoderOnly if self.replays and corrupt.calls else BatchedSweeps
        return way.sweep(self, clean, corrupt, inputs, patches, answer_ids, memory)

    def intervenes_in(self, interventions: Interventions) -> bool:
        """As the sweep that is used."""
        return (DecoderOnly if self.replays else BatchedSweeps).intervenes_in(self, interventions)

    def intervene(
        self,
        source: Trace,
        base: Trace,
        inputs: Inputs,
        interventions: Interventions,
        answer_ids: AnswerIds,
        memory: int,
    ) -> Readout:
        """As the sweep that is used."""
        way = DecoderOnly if self.replays and base.calls else BatchedSweeps
        return way.intervene(self, source, base, inputs, interventions, answer_ids, memory)

    def run_with_fixed_heads(
        self, clean: Trace, corrupt: Trace, keep_clean: dict[str, Tensor], start: str, answer_ids: AnswerIds
    ) -> Readout:
        """As the sweep that is used."""
        way = DecoderOnly if self.replays else BatchedSweeps
        return way.run_with_fixed_heads(self, clean, corrupt, keep_clean, start, answer_ids)
