"""Models of types that no family describes: by the fast sweep if that proves exact in every layer, else by batches."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlmtrace.core.arguments import checked
from vlmtrace.core.caller import warn
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.decoder_only import DecoderOnly
from vlmtrace.models.growing_inputs import Growth, growths
from vlmtrace.models.hooks import MODEL_LOCK
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
        grows: whether a prompt with the first token of an answer behind it gives the logits that the model itself gives
            when it generates; None: not tried yet
    """

    replays: bool = False
    grows: bool | None = None

    @property
    def image_placeholder(self) -> str:
        """See `ImagePrompts.image_placeholder`; where the processor does not say, the image token itself.

        Raises:
            VlmtraceError: no token stands for the image
        """
        token = getattr(self.processor, "image_token", None)
        if token is None:
            if self._image_id() < 0:
                raise self._without_image_token()
            token = self.tokenizer.convert_ids_to_tokens(self._image_id())
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

    def extend(self, inputs: Inputs, ids: Sequence[int] | Tensor) -> Inputs:
        """See `ModelInterface.extend`; further inputs grow as those of words behind a prompt do.

        Raises:
            VlmtraceError: it is not known how one of them grows, or the model itself goes on otherwise
        """
        n_new = torch.as_tensor(ids).shape[-1]
        if self.grows is None and n_new:
            self.grows = self._find_growth(self.encode([noise(0)], [self.prompt_text(PROMPT)]))
        if n_new and not self.grows:
            raise VlmtraceError(
                f"{self.name} is of a type that vlmtrace does not know, and where it goes on with an answer, it gives "
                "other logits than for a prompt with the answer's tokens behind it: compare answers of one token, or "
                "describe the type as a family (its more_token_fills and generated_token_type say what it takes)."
            )
        return self._longer(inputs, ids)

    def _longer(self, inputs: Inputs, ids: Sequence[int] | Tensor) -> Inputs:
        longer = super().extend(inputs, ids)
        n_new = longer["input_ids"].shape[1] - inputs["input_ids"].shape[1]
        if n_new and set(inputs) - self._filled:
            for name, growth in self._growths.items():
                if name in inputs:
                    longer[name] = torch.cat([inputs[name], growth(inputs[name], n_new)], dim=1)
        return longer

    @torch.no_grad()
    def _find_growth(self, inputs: Inputs) -> bool:
        """Whether inputs grow as the model's own generation goes on, with either type for a generated token."""
        own, images = self.family, sorted({*self.image_ids, self._image_id()} - {-1})
        options: dict[str, Any] = dict(max_new_tokens=2, min_new_tokens=2, do_sample=False, num_beams=1)
        try:
            with MODEL_LOCK:
                made = self.hf.generate(
                    **inputs, **options, suppress_tokens=images, output_logits=True, return_dict_in_generate=True
                )
            expected = made.logits[1].float().to(self.device)
        except Exception:  # whatever a class raises that cannot generate by itself: there is nothing to compare with
            return True
        allowed = max(1e-3, 16 * torch.finfo(self.dtype).eps) * max(1.0, float(expected.abs().amax()))
        for kind in (own.generated_token_type, 1 - own.generated_token_type):
            self.family = dataclasses.replace(own, generated_token_type=kind)
            try:
                found = self.last_logits(self._longer(inputs, made.sequences[:, -2:-1]), 1)[:, 0]
            except VlmtraceError:
                self.family = own
                raise
            except Exception:  # whatever a class raises over inputs that do not fit each other
                continue
            if largest_difference(found, expected) <= allowed:
                return True
        self.family = own
        return False

    @property
    def _filled(self) -> set[str]:
        """The inputs of which a family says how they grow, and that of the image."""
        return {"input_ids", self.family.pixels, *self.family.token_fills}

    @functools.cached_property
    def _growths(self) -> dict[str, Growth]:
        """By further input with one entry per position, how it grows: a property of the processor, tried once."""
        return growths(self.name, lambda text: self.encode([noise(0)], [text]), self.prompt_text(PROMPT), self._filled)

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
        with contextlib.suppress(VlmtraceError):  # said where an answer of several tokens is asked for
            self.grows = self._find_growth(inputs)
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
        kinds: list[tuple[str, int, int | None]]
        kinds = [(module, layer, None) for module in block.modules for layer in block.layers_with(module)]
        kinds += [
            (module, layer, block.heads_at(layer) - 1)
            for module in block.head_modules
            for layer in block.layers_with(module)
        ]
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
