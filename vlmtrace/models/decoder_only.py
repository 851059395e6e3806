"""Decoder-only models: image tokens stand inside the text sequence, and one stack of layers reads them all.

    pixels ──▶ vision_encoder ──▶ projector ──▶ image tokens
                                                    │ take the places of the image's placeholders
    prompt ──▶ embeddings ──────────────────────────┴──▶ language_model ──▶ logits after the last position

One class serves all families: what differs is where a family keeps its submodules, and how its processor cuts the image
up. Both are said by its `FamilySpec`.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.images import open_image
from vlmtrace.models import image_geometry
from vlmtrace.models.families import FamilySpec
from vlmtrace.models.hooks import MODEL_LOCK, HookPoint, attach_hooks
from vlmtrace.models.sweep import decoder_only as decoder_sweep
from vlmtrace.models.sweep.replay_check import check_replay, leave_out_unknown_vision_encoder
from vlmtrace.models.types import Block, Call, Inputs, Patches, Readout, Site, Token, Trace
from vlmtrace.models.vlm import VLM

#: Rows of the unembedding that are turned into float32 at a time.
VOCABULARY_AT_ONCE = 2**13


class _Reached(Exception):
    """The forward pass got to where it was wanted."""


class DecoderOnly(VLM):
    """A transformers model that puts image tokens into the text sequence, under the common interface."""

    answer_block = "language_model"
    image_module = "self_attention"
    edges = (("image", "options"), ("image", "last"), ("options", "last"))
    has_visual_tokens = True
    falls_back_to_reference = False
    sweeps_regions = True
    image_size_matters = True

    def __init__(self, name: str, hf: Any, processor: Any, family: FamilySpec | None = None):
        super().__init__(name, hf, processor, family)
        self.text: Any = hf.get_submodule(self.family.text)
        vision = hf.get_submodule(self.family.vision).modules()
        self.vision_layers = next((module for module in vision if isinstance(module, nn.ModuleList)), nn.ModuleList())
        text = hf.config.get_text_config()
        attention = ("self_attention",)
        language = Block(
            "language_model",
            len(self.text.layers),
            text.num_attention_heads,
            ("residual", "mlp", *attention),
            head_modules=attention,
            attention_modules=attention,
        )
        self.blocks = {block.name: block for block in (*self._vision_block(), language)}
        self.entry_blocks = tuple(self.blocks)
        self._takes = set(inspect.signature(type(hf).forward).parameters) - {"labels"}

    def _vision_block(self) -> list[Block]:
        """The vision encoder, if each of its positions is known to be a patch of the image; only layers that are read.

        Some families read a layer before the last: layers above it reach nothing.
        """
        vision, n = self.hf.config.vision_config, len(self.vision_layers)
        if vision.model_type not in self.family.vision_types:
            return []
        chosen = getattr(self.hf.config, "vision_feature_layer", None)
        if chosen is not None:
            # hidden_states[k] is the output of layer k - 1; negative numbers count from the end of n + 1 entries.
            indices = [chosen] if isinstance(chosen, int) else list(chosen)
            n = max(index if index >= 0 else n + 1 + index for index in indices)
        heads = getattr(vision, "num_attention_heads", None) or vision.num_heads
        attention = ("self_attention",) if self.family.vision_attention_weights else ()
        return [Block("vision_encoder", n, heads, ("residual",), attention_modules=attention)] if n > 0 else []

    # Prompts --------------------------------------------------------

    @property
    def image_placeholder(self) -> str:
        """What stands for the image in a prompt: the processor puts the image's tokens in its place."""
        token = self.processor.image_token
        return getattr(token, "content", token)

    def prompt_text(self, prompt: str) -> str:
        """The exact text handed to the processor: by its chat template, or with the image put before the prompt.

        Raises:
            VlmtraceError: the chat template leaves out the image or the prompt
        """
        if not getattr(self.processor, "chat_template", None):
            return self.family.prompt_start.format(image=self.image_placeholder) + prompt
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        messages = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        if prompt.strip() not in text or (self.family.prompt_start and text.count(self.image_placeholder) != 1):
            raise VlmtraceError(
                f"The chat template of {self.name} makes {text!r} of the prompt {prompt!r}, which does not hold it and "
                "one image: use a processor with a chat template for images."
            )
        return text

    def text_only_prompt(self, prompt: str) -> str:
        """The exact text of a prompt without an image."""
        if not getattr(self.processor, "chat_template", None):
            return prompt
        messages = [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
        return self.processor.apply_chat_template(messages, add_generation_prompt=True)

    def encode_text(self, text: str) -> Inputs:
        """Inputs of one text without an image, as `text_only_prompt` gives it."""
        row = self.tokenizer(text + self.family.prompt_end, return_tensors="pt", **self._tokenizer_options(text))
        found = {name: value.to(self.device) for name, value in row.items() if name in ("input_ids", "attention_mask")}
        if self.family.generated_token_type:
            # The prompt's own type must be told where what is generated has another.
            found["token_type_ids"] = torch.zeros_like(found["input_ids"])
        return found

    def _tokenizer_options(self, text: str) -> dict[str, Any]:
        """As transformers does: no second start token where the chat template has written one."""
        bos = self.tokenizer.bos_token
        return {"add_special_tokens": False} if bos and text.startswith(bos) else {}

    def count_tokens(self, prompt: str) -> int:
        """Number of tokens of a prompt, special tokens included, and the image as one."""
        text = self.prompt_text(prompt)
        return len(self.tokenizer(text, **self._tokenizer_options(text)).input_ids)

    def answer_token(self, answer: str) -> int:
        before = self.prompt_text("is this a or b?") + self.family.prompt_end
        # A model goes on with a space unless a line or a special token (of a chat template) has just ended.
        closed = before[-1:].isspace() or before.endswith(tuple(self.tokenizer.all_special_tokens))
        joined = before + ("" if closed else " ") + answer
        ids, longer = (self.tokenizer(text, add_special_tokens=False).input_ids for text in (before, joined))
        # Where the tokenizer joins the prompt's end with the answer, the first token that differs carries it.
        same = next((i for i, (a, b) in enumerate(zip(ids, longer, strict=False)) if a != b), len(ids))
        if not answer.strip() or same >= len(longer) or longer[same] == self.tokenizer.unk_token_id:
            raise VlmtraceError(
                f"The answer {answer!r} does not start with a token of {self.name}'s vocabulary: use another word."
            )
        return longer[same]

    # Inputs --------------------------------------------------------

    def encode(self, images: Sequence[Image.Image | str | Path], prompts: Sequence[str]) -> Inputs:
        """As for any model; one image a prompt, and prompts as `prompt_text` gives them."""
        rows = [self._encode_one(open_image(image), text) for image, text in zip(images, prompts, strict=True)]
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

    def _encode_one(self, image: Image.Image, text: str) -> Inputs:
        if self.family.prompt_start and text.count(self.image_placeholder) != 1:
            raise VlmtraceError(
                f"The prompt {text!r} must hold {self.image_placeholder} once, where {self.name} is to see the image: "
                "make it with prompt_text."
            )
        row = self.processor(images=image, text=text, return_tensors="pt", **self._tokenizer_options(text))
        return {name: value for name, value in row.items() if name in self._takes}

    def is_image(self, inputs: Inputs) -> Tensor:
        """(pair, position) bool: where image tokens stand in the language model."""
        return inputs["input_ids"] == self.hf.config.image_token_id

    def image_positions(self, inputs: Inputs, block: str) -> np.ndarray:
        if block == "vision_encoder":
            return np.ones(len(self._vision_tokens(inputs)), dtype=bool)
        return self.is_image(inputs)[0].cpu().numpy()

    def image_cells(self, image: Image.Image | str | Path, inputs: Inputs, block: str = "language_model") -> np.ndarray:
        """Where in the image the image's positions of a block lie, whatever the processor resized, cropped or tiled.

        Args:
            image: the image of which `inputs` (of one pair) were made; only its size matters
        Returns:
            (n, 4): top, left, bottom, right in fractions of the original image. Rows are the image tokens of
            language_model (in order, see `is_image`), or all positions of vision_encoder. NaN where a position has no
            place in the image: newlines, class tokens, padding, and the query tokens of BLIP-2, which see all of it.
            Where LLaVA-OneVision shrinks the grid of a very large image, boxes are those of the patch at the middle.
        Raises:
            VlmtraceError: there is no such block
        """
        one_of(block, self.blocks, f"block of {self.name}")
        boxes = image_geometry.token_boxes if block == "language_model" else image_geometry.vision_boxes
        return boxes(self, open_image(image), inputs)

    def tokens(self, block: str, prompt: str, inputs: Inputs) -> list[Token]:
        if block == "vision_encoder":
            return self._vision_tokens(inputs)
        ids = inputs["input_ids"][0].tolist()
        texts = self.tokenizer.convert_ids_to_tokens(ids)
        encoded = self.tokenizer(prompt, return_offsets_mapping=True, **self._tokenizer_options(prompt))
        # The processor has put tokens in and around the image's place; all others are those of the prompt, in order.
        spans: dict[int, tuple[int, int]] = {}
        for a, b, size in SequenceMatcher(None, encoded.input_ids, ids, autojunk=False).get_matching_blocks():
            spans |= {b + i: tuple(encoded["offset_mapping"][a + i]) for i in range(size)}
        is_image = self.is_image(inputs)[0].tolist()
        names = self._image_names(inputs, sum(is_image))
        special = set(self.tokenizer.all_special_tokens) - {self.tokenizer.unk_token}
        found = []
        for i, text in enumerate(texts):
            if is_image[i]:
                found.append(Token(next(names), role="image"))
            else:
                role = "last" if i == len(ids) - 1 else text if text in special or i not in spans else None
                found.append(Token(text, spans.get(i, (0, 0)), role))
        return found

    def _image_names(self, inputs: Inputs, n: int) -> Iterator[str]:
        """ "row,column" of image tokens, tiles one below the other; their number where they form no such grid."""
        tiles, rows, columns = self.family.layout.grid(self.hf.config, inputs)
        side = 0 if self.family.square_side is None else self.family.square_side(self.hf.config)
        if side and self.family.pack is None and tiles * (rows // side) * (columns // side) == n:
            return iter([f"{i // (columns // side)},{i % (columns // side)}" for i in range(n)])
        return iter(map(str, range(n)))

    def _vision_tokens(self, inputs: Inputs) -> list[Token]:
        _, rows, _ = self.family.layout.grid(self.hf.config, inputs)
        return [
            Token("[CLS]", role="[CLS]") if tile < 0 else Token(f"{tile * rows + row},{column}", role="image")
            for tile, row, column in self.family.layout.positions(self.hf, inputs).tolist()
        ]

    def patch_grid(self, inputs: Inputs) -> tuple[int, int]:
        """Rows and columns of image patches that the vision encoder sees, tiles one below the other."""
        tiles, rows, columns = self.family.layout.grid(self.hf.config, inputs)
        return tiles * rows, columns

    def token_patches(self, inputs: Inputs) -> np.ndarray | None:
        return image_geometry.token_patches(self, inputs) if "vision_encoder" in self.blocks else None

    # Forward passes --------------------------------------------------------

    def last_logits(self, inputs: Inputs, n: int, image: Tensor | None = None) -> Tensor:
        options = {"logits_to_keep": n} if "logits_to_keep" in self._takes else {}

        def replace(stream: Tensor) -> Tensor | None:
            if image is None:
                return None
            return stream.masked_scatter(self.is_image(inputs)[..., None], image.to(stream.dtype))

        with attach_hooks([(HookPoint(self.text.layers[0], is_input=True), replace)]):
            run = self.hf if "pixel_values" in inputs else self.hf.get_submodule(self.family.text_only)
            return run(**inputs, use_cache=False, **options).logits[:, -n:].float()

    def image_embeddings(self, inputs: Inputs) -> Tensor:
        """The projected image tokens, as they enter the first layer of the language model."""
        kept: list[Tensor] = []

        def keep(stream: Tensor) -> None:
            kept.append(stream[self.is_image(inputs)].unflatten(0, (len(stream), -1)))
            raise _Reached

        with attach_hooks([(HookPoint(self.text.layers[0], is_input=True), keep)]), contextlib.suppress(_Reached):
            self.hf(**inputs, use_cache=False)
        return kept[0]

    def extend(self, inputs: Inputs, ids: Sequence[int]) -> Inputs:
        new_ids = torch.tensor(list(ids), device=self.device)
        fills: dict[str, Tensor | int] = {"input_ids": new_ids, **self.family.token_fills}

        def longer(value: Tensor, fill: Tensor | int) -> Tensor:
            new = torch.as_tensor(fill, dtype=value.dtype, device=value.device).expand(len(value), len(ids))
            return torch.cat([value, new], dim=1)

        return {name: longer(value, fills[name]) if name in fills else value for name, value in inputs.items()}

    def generate(self, inputs: Inputs, max_new_tokens: int = 8) -> list[str]:
        prompts = inputs["input_ids"]
        with MODEL_LOCK:
            ids = self.hf.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        # Some families give the prompt back before the answer.
        if torch.equal(ids[:, : prompts.shape[1]], prompts):
            ids = ids[:, prompts.shape[1] :]
        return [answer.strip() for answer in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def trace(self, inputs: Inputs, sites: Sequence[Site] | None = None, image: Tensor | None = None) -> Trace:
        """As for any model; also keeps what each layer of the language model was called with, for the sweep."""
        calls: list[Call] = []

        def keep(_module: nn.Module, args: tuple, options: dict) -> None:
            # A cache would hold this run's keys and values: with it, a patched run would read those of the unpatched.
            calls.append(Call(args[0].detach(), {**options, "past_key_values": None}))

        with MODEL_LOCK:
            handles = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in self.text.layers]
            try:
                trace = super().trace(inputs, sites, image)
            finally:
                for handle in handles:
                    handle.remove()
        trace.calls = calls
        return trace

    @contextlib.contextmanager
    def eager(self) -> Iterator[None]:
        configs = {id(part.config): part.config for part in self.hf.modules() if hasattr(part, "config")}
        with MODEL_LOCK:
            before = [(config, config._attn_implementation) for config in configs.values()]
            try:
                for config, _ in before:
                    config._attn_implementation = "eager"
                yield
            finally:
                # Setting a configuration sets those inside it, so the inner ones come last.
                for config, implementation in before:
                    config._attn_implementation = implementation

    def adds_image_features_after(self, layer: int) -> bool:
        return layer < self.family.later_image_features(self.hf.config)

    @property
    def final_norm(self) -> nn.Module:
        return getattr(self.text, self.family.norm) or nn.Identity()

    def read(self, hidden: Tensor) -> Tensor:
        return self.capped(self.hf.get_output_embeddings()(self.final_norm(hidden)))

    def unembed(self, normed: Tensor) -> Tensor:
        """As for any model.

        In float32 whatever the model computes in: differences of log-probabilities would drown in its rounding.
        """
        head = self.hf.get_output_embeddings()
        rows = len(head.weight) if head.weight.dtype == torch.float32 else VOCABULARY_AT_ONCE
        logits = torch.cat([nn.functional.linear(normed, part.float()) for part in head.weight.split(rows)], dim=-1)
        bias = getattr(head, "bias", None)
        return self.capped(logits if bias is None else logits + bias.float())

    def capped(self, logits: Tensor) -> Tensor:
        """What some families do to their logits at last."""
        cap = getattr(self.hf.config.get_text_config(), "final_logit_softcapping", None)
        if cap is None or not self.family.caps_logits:
            return logits
        return torch.tanh(logits / cap) * cap

    # Where things are --------------------------------------------------------

    def layer_module(self, block: str, layer: int) -> nn.Module:
        return (self.vision_layers if block == "vision_encoder" else self.text.layers)[layer]

    def hook_point(self, site: Site) -> HookPoint:
        layer = self.layer_module(site.block, site.layer)
        match site.module:
            case "residual":
                return HookPoint(layer, is_input=False)
            case "mlp":
                return HookPoint(layer.get_submodule(self.family.mlp), is_input=False)
            case _:
                return HookPoint(layer.get_submodule(self.family.attention_output), is_input=True)

    def attention_module(self, site: Site) -> nn.Module:
        layer = self.layer_module(site.block, site.layer)
        if site.block == "vision_encoder":
            return layer.get_submodule(self.family.vision_attention)
        return layer.get_submodule(self.family.attention_output.partition(".")[0])

    # Sweeps --------------------------------------------------------

    def check_layers(self, trace: Trace, inputs: Inputs) -> None:
        check_replay(self, trace, inputs)
        leave_out_unknown_vision_encoder(self, trace, inputs)

    def sweep_unsupported_reason(self, inputs: Inputs) -> str | None:
        return None

    def sweep(
        self, clean: Trace, corrupt: Trace, inputs: Inputs, patches: Patches, answer_ids: Tensor, memory: int
    ) -> Readout:
        return decoder_sweep.sweep(self, clean, corrupt, inputs, patches, answer_ids, memory)

    def run_with_fixed_heads(
        self, clean: Trace, corrupt: Trace, keep_clean: dict[str, Tensor], start: str, answer_ids: Tensor
    ) -> Readout:
        return decoder_sweep.run_with_fixed_heads(self, clean, corrupt, keep_clean, start, answer_ids)
