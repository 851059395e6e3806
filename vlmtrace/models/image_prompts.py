"""Prompts in which an image stands among the words, and what a model's processor and tokenizer make of them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vlmtrace.core.arguments import Count, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.families import FamilySpec
from vlmtrace.models.input_limits import check_extended, check_length, holds_image, processor_refusals, quoted
from vlmtrace.models.several_images import Images, as_list, check_batch
from vlmtrace.models.types import Inputs
from vlmtrace.models.vlm import VLM


class ImagePrompts(VLM):
    """The inputs of a model that reads image tokens in its text sequence; `DecoderOnly` is the rest of it."""

    has_visual_tokens = True
    image_size_matters = True

    def __init__(self, name: str, hf: Any, processor: Any, family: FamilySpec | None = None):
        """See `ModelInterface`."""
        super().__init__(name, hf, processor, family)
        for setting, value in self.family.processor_settings.items():
            setattr(processor, setting, value)
        self.forward_arguments = set(inspect.signature(type(hf).forward).parameters) - {"labels"}

    # Prompts --------------------------------------------------------

    @property
    def image_placeholder(self) -> str:
        """What stands for the image in a prompt: the processor puts the image's tokens in its place."""
        # Where the chat template writes another token than those that the image becomes, the processor says so. That of
        # Kosmos puts the image's tokens itself, and knows no placeholder.
        named = (getattr(self.processor, f"image_{part}token", None) for part in ("placeholder_", ""))
        token = next(filter(None, named), "")
        return getattr(token, "content", token)

    @checked
    def prompt_text(self, prompt: str, n_images: Count = 1) -> str:
        """The exact text handed to the processor: by its chat template, or with the images put before the prompt.

        Args:
            prompt: what is asked
            n_images: how many images it is asked about

        Returns:
            the text, with a placeholder for each image in it where the family has one

        Raises:
            VlmtraceError: the model takes one image in a prompt, the prompt holds a placeholder already, or the chat
                template leaves out an image or the prompt
        """
        self.check_n_images(n_images)
        if self.image_placeholder and self.image_placeholder in prompt:
            raise holds_image("prompt", prompt, self.image_placeholder)
        if not getattr(self.processor, "chat_template", None):
            start, image = self.family.prompt_start, self.image_placeholder
            return "".join(start.format(image=image, number=number + 1) for number in range(n_images)) + prompt
        content = [*[{"type": "image"}] * n_images, {"type": "text", "text": prompt}]
        messages = [{"role": "user", "content": content}]
        with processor_refusals(self, prompt, part="chat template"):
            text = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        n_places = text.count(self.image_placeholder) if self.family.prompt_start else n_images
        if prompt.strip() not in text or n_places != n_images:
            images = "one image" if n_images == 1 else f"{n_images} images"
            raise VlmtraceError(
                f"The chat template of {self.name} makes {quoted(text)} of the prompt {quoted(prompt)}, which does not "
                f"hold it and {images}: use a processor with a chat template for images."
            )
        return text

    def text_only_prompt(self, prompt: str) -> str:
        """The exact text of a prompt without an image."""
        if not getattr(self.processor, "chat_template", None):
            return prompt
        messages = [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
        with processor_refusals(self, prompt, part="chat template"):
            return self.processor.apply_chat_template(messages, add_generation_prompt=True)

    @checked
    def encode_text(self, text: str) -> Inputs:
        """Inputs of one text without an image, as `text_only_prompt` gives it."""
        with processor_refusals(self, text):
            row = self.tokenizer(text + self.family.prompt_end, return_tensors="pt", **self.tokenizer_options(text))
        check_length(self, row, text)
        found = {name: value.to(self.device) for name, value in row.items() if name in ("input_ids", "attention_mask")}
        if self.family.generated_token_type:
            # Where what is generated has another type than the prompt, the prompt's must be given.
            found["token_type_ids"] = torch.zeros_like(found["input_ids"])
        return found

    def tokenizer_options(self, text: str) -> dict[str, Any]:
        """As transformers does: no second start token where the chat template has written one."""
        bos = self.tokenizer.bos_token
        return {"add_special_tokens": False} if bos and text.startswith(bos) else {}

    def count_tokens(self, prompt: str) -> int:
        """Number of tokens of a prompt, special tokens included, and the image as one."""
        text = self.prompt_text(prompt)
        with processor_refusals(self, prompt):
            return len(self.tokenizer(text, **self.tokenizer_options(text)).input_ids)

    def spell_answer(self, answer: str, prefix: str = "", blank: bool | None = None) -> list[int]:
        """See `VLM.spell_answer`; the answer goes on from the prompt, or from the prefix behind it."""
        # In any case: an answer is measured in whatever case the model writes it.
        for part in (prefix, answer):
            if self.image_placeholder and self.image_placeholder.lower() in part.lower():
                raise holds_image("answer", part, self.image_placeholder)
        before = self.prompt_text("is this a or b?") + self.family.prompt_end
        joined = before, before
        for part in filter(None, (prefix, answer)):
            # A model goes on with a space unless a line or a special token (of a chat template) has just ended.
            closed = before[-1:].isspace() or before.endswith(tuple(self.tokenizer.all_special_tokens))
            spaced = not closed if blank is None or part is prefix else blank
            before, joined = before + " " * spaced + part, (before, before + " " * spaced + part)
        ids, longer = (self.tokenizer(text, add_special_tokens=False).input_ids for text in joined)
        # Where the tokenizer joins the prompt's end with the answer, the first token that differs carries it.
        same = next((i for i, (a, b) in enumerate(zip(ids, longer, strict=False)) if a != b), len(ids))
        return self._known(answer, longer[same:])

    # Inputs --------------------------------------------------------

    @checked
    def encode(self, images: Sequence[Images], prompts: Sequence[str]) -> Inputs:
        """See `ModelInterface.encode`; pairs of a batch have one length."""
        check_batch(images, prompts)
        several = [[self.opened(one) for one in as_list(image)] for image in images]
        rows = [self._encode_one(own, text) for own, text in zip(several, prompts, strict=True)]
        shapes = {tuple((name, tuple(value.shape)) for name, value in row.items()) for row in rows}
        if len(shapes) > 1:
            raise VlmtraceError(
                f"Prompts or images of unlike length cannot share a batch of {self.name}, since padding is never "
                "used: encode those of equal length together."
            )
        joined = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        return {
            name: value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)
            for name, value in joined.items()
        }

    def _encode_one(self, images: list[Image.Image], text: str) -> Inputs:
        self.check_n_images(len(images))
        n_places = text.count(self.image_placeholder) if self.family.prompt_start else len(images)
        if n_places != len(images):
            once = "once" if len(images) == 1 else f"{len(images)} times"
            raise VlmtraceError(
                f"The prompt {quoted(text)} must hold {self.image_placeholder} {once}, where {self.name} is to see the "
                f"image{'s' if len(images) > 1 else ''}: make it with prompt_text."
            )
        with processor_refusals(self, text, images[0]):
            row = self._processed(images, text)
        check_length(self, row, text)
        # Some processors leave numbers in lists.
        return {name: torch.as_tensor(value) for name, value in row.items() if name in self.forward_arguments}

    def _processed(self, images: list[Image.Image], text: str) -> Any:
        """What the processor makes of the images of one prompt and its text."""
        # A list in a list: processors that treat images of one prompt in another way are told so by it.
        given: Any = images[0] if len(images) == 1 else [images]
        if self.family.still_frames:
            given = images * self.family.still_frames
        return self.processor(images=given, text=text, return_tensors="pt", **self.tokenizer_options(text))

    @property
    def image_ids(self) -> set[int]:
        """See `VLM.image_ids`."""
        ids = {getattr(self.hf.config, name, None) for name in ("image_token_id", "video_token_id")}
        return {one for one in ids if isinstance(one, int)}

    def is_image(self, inputs: Inputs) -> Tensor:
        """(pair, position) bool: where image tokens stand in the language model."""
        return self.family.is_image(self.hf.config, inputs)

    def extend(self, inputs: Inputs, ids: Sequence[int] | Tensor) -> Inputs:
        """See `ModelInterface.extend`: every input with one entry per position grows by the new tokens."""
        new_ids = torch.as_tensor(ids, dtype=torch.long, device=self.device)
        n_new = new_ids.shape[-1]
        check_extended(self, inputs["input_ids"].shape[1] + n_new)
        fills: dict[str, Tensor | int] = {"input_ids": new_ids, **self.family.token_fills}

        def longer(value: Tensor, fill: Tensor | int) -> Tensor:
            new = torch.as_tensor(fill, dtype=value.dtype, device=value.device).expand(len(value), n_new)
            return torch.cat([value, new], dim=1)

        return {name: longer(value, fills[name]) if name in fills else value for name, value in inputs.items()}
