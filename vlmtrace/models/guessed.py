"""Models of types that no family describes: by the fast sweep if that proves exact in every layer, else by batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlmtrace.core.arguments import checked
from vlmtrace.core.caller import warn
from vlmtrace.models.decoder_only import DecoderOnly
from vlmtrace.models.image_prompts import ImagePrompts
from vlmtrace.models.interventions import Interventions
from vlmtrace.models.sweep import universal as universal_sweep
from vlmtrace.models.sweep.replay_check import check_replay, largest_difference, tolerance
from vlmtrace.models.types import AnswerIds, Inputs, Patches, Readout, Site, Trace
from vlmtrace.models.universal import LANGUAGE, PROMPT, BatchedSweeps, UniversalDecoder, noise

#: Bytes for the states in which the two ways to patch are compared.
COMPARED_AT_ONCE = 2**28


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

    @property
    def image_ids(self) -> set[int]:
        """See `VLM.image_ids`."""
        return {*super().image_ids, self._image_id()} - {-1}

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
        warn(
            f"{self.name} is a {spec.architecture}, which vlmtrace does not know. Its parts were guessed: text layers "
            f"{spec.text}.layers, final norm {spec.norm or 'unknown'}, in a layer {' or '.join(spec.attention_output)} "
            f"and {spec.mlp}. Its vision encoder is not offered for patching, and places in the image are not known. "
            + (
                "The fast sweep gives the numbers of whole passes in all of its layers, and is used."
                if self.replays
                else "The fast sweep does not fit its layers: it is patched by whole passes in batches, which takes "
                "several times as long."
            )
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
