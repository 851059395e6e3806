"""Models that are patched by whole forward passes in batches, since no faster way is known to be exact for them.

`BatchedSweeps` is what all of them share. `UniversalDecoder` has image tokens in its text sequence, as `DecoderOnly`,
but its layers may do what they like.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vlmtrace.core.arguments import checked
from vlmtrace.core.caller import warn
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.decoder_only import DecoderOnly
from vlmtrace.models.families import FamilySpec
from vlmtrace.models.hooks import HookPoint, attach_hooks
from vlmtrace.models.image_prompts import ImagePrompts
from vlmtrace.models.interventions import Interventions
from vlmtrace.models.layer_kinds import ATTENTION, NO_ATTENTION, kinds_in
from vlmtrace.models.sweep import universal as universal_sweep
from vlmtrace.models.sweep.replay_check import largest_difference, leave_out_unknown_vision_encoder, tolerance
from vlmtrace.models.types import AnswerIds, Inputs, Patches, Readout, Site, Trace
from vlmtrace.models.vlm import VLM

#: Whose sequence the image's tokens stand in.
LANGUAGE = "language_model"

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
    joins_answers = False
    fixes_heads = False

    def sweep_unsupported_reason(self, inputs: Inputs) -> str | None:
        """Nothing: whatever the model takes, it runs."""
        return None

    def nodes_unsupported_reason(self) -> str | None:
        """Its layers are run whole."""
        return "layers that are run whole, not node by node"

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
        warn(
            f"{self.name} is patched by whole forward passes in batches: the numbers are exact, but a sweep takes "
            "several times as long as one that runs only what a patch can reach."
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
        kinds = tuple(kind if language.has("self_attention", i) else NO_ATTENTION for i, kind in enumerate(kinds))
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
        return self._in_streams(super().entry_point(block), block)

    def hook_point(self, site: Site) -> HookPoint:
        """See `DecoderOnly.hook_point`."""
        return self._in_streams(super().hook_point(site), site.block)

    def _in_streams(self, point: HookPoint, block: str) -> HookPoint:
        """A hook point that knows where streams lie; where that is not known, activations of streams are refused."""
        if block != LANGUAGE:
            return point
        return point._replace(stream_axis=self.family.stream_axis, refuses_streams=True)

    def last_logits(self, inputs: Inputs, n: int, image: Tensor | None = None) -> Tensor:
        """See `DecoderOnly.last_logits`; all layers run all positions, which `logits_to_keep` might spare some of."""
        points: list[Any] = []
        head = self.unembedding
        if head is not None:
            points.append((HookPoint(head, is_input=True), lambda hidden: hidden[:, -n:]))
        if image is not None:
            where = self.is_image(inputs)[..., None]
            points.append(
                (self.entry_point(LANGUAGE), lambda stream: stream.masked_scatter(where, image.to(stream.dtype)))
            )
        run = self.hf if self.sees(inputs) else self.hf.get_submodule(self.family.text_only)
        with attach_hooks(points, ahead=True):  # what keeps the input of the first layer sees `image` in it
            return run(**self.family.as_batch(inputs), use_cache=False).logits[:, -n:].float()

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
            raise self._without_image_token()
        leave_out_unknown_vision_encoder(self, trace, inputs)
        self.reads = self._find_readout(trace)
        self._say_slower()

    def _without_image_token(self) -> VlmtraceError:
        return VlmtraceError(
            f"{self.name} is not supported: its prompts hold no token that stands for the image, so that it is not "
            "known where the image enters."
        )

    def _find_readout(self, trace: Trace) -> bool:
        """Whether `read` gives the model's logits, with or without the cap that the configuration names."""
        last = trace[LANGUAGE, "residual", self.blocks[LANGUAGE].n_layers - 1][:, -1]  # (1, D)
        for caps in (self.family.caps_logits, not self.family.caps_logits):
            self.family = dataclasses.replace(self.family, caps_logits=caps)
            try:
                head = self.unembedding
                if head is None:
                    return False
                logits = self.scaled(head(super().final_norm(last)))
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
