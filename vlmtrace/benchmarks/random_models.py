"""Models with random weights of sizes that matter, and pairs for them: nothing is downloaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForQuestionAnswering,
    BlipProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from vlmtrace.core.arguments import Count, Seed, checked
from vlmtrace.core.errors import one_of
from vlmtrace.core.paths import MODELS
from vlmtrace.models import VLM, wrap_model
from vlmtrace.models.families import family_of

QUESTION = "is this circle red or blue?"


def blip(
    layers: int = 12,
    width: int = 768,
    heads: int = 12,
    image_size: int = 384,
    patch: int = 16,
    vocabulary: int = 30524,
    seed: int = 0,
) -> tuple[nn.Module, Any]:
    """A BLIP with random weights and its processor; all its stacks are of one size.

    The defaults are the sizes of blip-vqa-base's configuration. Weights are drawn wide enough that patches change the
    answer.
    """
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *"is this circle red or blue ? a b".split()]
    words += [f"[unused{i}]" for i in range(vocabulary - len(words))]
    stack = dict(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads)
    text = dict(
        stack,
        encoder_hidden_size=width,
        vocab_size=len(words),
        bos_token_id=words.index("[DEC]"),
        sep_token_id=words.index("[SEP]"),
        eos_token_id=words.index("[SEP]"),
        pad_token_id=0,
    )
    vision = dict(stack, image_size=image_size, patch_size=patch)
    model = BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=vision))
    draw_wide(model, seed)
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    size = {"height": image_size, "width": image_size}
    return model, BlipProcessor(BlipImageProcessorPil(size=size), tokenizer)


def llava(
    layers: int = 12,
    width: int = 512,
    heads: int = 16,
    inner: int = 1408,
    image_size: int = 350,
    patch: int = 14,
    vocabulary: int | None = None,
    longest: int = 1024,
    vision: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    key_heads: int | None = None,
    tied: bool = False,
    seed: int = 0,
) -> tuple[nn.Module, Any]:
    """A LLaVA with random weights, made where it stays, and its processor, whose words are tiny-llava's.

    The defaults are a narrow language model whose image takes 625 positions. Several heads share keys and values where
    there are fewer `key_heads`; `tied`: the words' embeddings are also what logits are read by.
    """
    bundled = LlavaProcessor.from_pretrained(MODELS / "tiny-llava")
    words = bundled.tokenizer
    sizes = vision or dict(hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4)
    seeing = CLIPVisionConfig(**{"projection_dim": 128, **sizes}, image_size=image_size, patch_size=patch)
    text = LlamaConfig(
        vocab_size=max(vocabulary or 0, len(words)),
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads or heads,
        max_position_embeddings=longest,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        tie_word_embeddings=tied,
    )
    image_token = words.convert_tokens_to_ids(bundled.image_token)
    n = (image_size // patch) ** 2
    config = LlavaConfig(vision_config=seeing, text_config=text, image_token_index=image_token, image_seq_length=n)
    config.tie_word_embeddings = tied
    with torch.device(device), default_dtype(dtype):
        model = LlavaForConditionalGeneration(config)
    draw_wide(model, seed)
    sharpen(model.model.language_model)
    sides = {"height": image_size, "width": image_size}
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size=sides, do_center_crop=False),
        words,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=bundled.chat_template,
    )
    return model, processor


@checked
def random_llava(
    layers: Count = 4,
    width: Count = 256,
    heads: Count = 4,
    image_size: Count = 112,
    dtype: str = "float32",
    device: str = "cpu",
    seed: Seed = 0,
) -> VLM:
    """A LLaVA of the real class with random weights, checked as a loaded model is; its words are tiny-llava's.

    What it answers means nothing, and so does every effect in it. What it costs is what a trained model of its sizes
    costs.

    Args:
        layers: of the language model
        width: of its residual stream
        heads: of each layer
        image_size: sides of its image in pixels; patches are 14 pixels wide
        dtype: number type, as in `load_model`; in each of them the weights are those drawn in float32, rounded
        device: where it lies
        seed: of its weights

    Returns:
        the model, in memory

    Raises:
        VlmtraceError: the number type is unknown, or the model fails the checks of a loaded one

    Example:
        >>> from vlmtrace.benchmarks import random_llava
        >>> random_llava(layers=2, width=64)
        <DecoderOnly random LLaVA 2×64: layers × heads: vision_encoder 1×4, language_model 2×4>
    """
    number_type = getattr(torch, one_of(dtype, ("float32", "bfloat16", "float16"), "number type"))
    inner = 11 * width // 4
    seeing = dict(hidden_size=max(32, width // 4), intermediate_size=width, num_attention_heads=4)
    vision = {**seeing, "num_hidden_layers": max(2, 3 * layers // 4)}  # in proportion, as in llava-1.5-7b
    sizes: dict[str, Any] = {"image_size": image_size, "vision": vision, "device": device, "seed": seed}
    hf, processor = llava(layers, width, heads, inner, **sizes)
    return wrap_model(hf.to(number_type), processor, name=f"random LLaVA {layers}×{width}")


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """While this is entered, parameters are made in a number type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def blip_vqa_base(folder: Path, seed: int = 0) -> Path:
    """A BLIP of blip-vqa-base's size with random weights, saved in `folder` with its processor."""
    return saved(*blip(seed=seed), folder)


def long_llava(folder: Path, seed: int = 0) -> Path:
    """A narrow LLaVA with random weights whose image takes 625 positions, saved in `folder` with its processor."""
    return saved(*llava(seed=seed), folder)


def deep_llava(folder: Path, seed: int = 0) -> Path:
    """A LLaVA with random weights whose language model has the sizes of SmolLM2-135M, saved with its processor.

    Thirty layers, nine heads of which three share keys and values each, tied embeddings of 49,152 words, and an image
    of 64 positions (Allal et al. 2025, https://arxiv.org/abs/2502.02737, and its config.json): smol-llava's sizes.
    """
    shape = dict(layers=30, width=576, heads=9, key_heads=3, inner=1536, vocabulary=49152, tied=True)
    return saved(*llava(**shape, image_size=96, patch=12, seed=seed), folder)  # type: ignore[arg-type]


def saved(model: Any, processor: Any, folder: Path) -> Path:
    """The folder in which model and processor lie now."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def in_memory(name: str, model: Any, processor: Any) -> VLM:
    """A model under the common interface without having been saved and loaded; its sweep is not checked yet."""
    family = family_of(model.config, name)
    return family.interface_class()(name, model, processor, family)


def draw_wide(model: nn.Module, seed: int) -> None:
    """Draw all weights anew, wide enough that patches change the answer."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name.lower():
                parameter.normal_(0, 0.02 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5)


def sharpen(stack: nn.Module, factor: float = 3.0) -> None:
    """Let attention choose: with random weights it spreads over all of a long sequence, and no patch changes much."""
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                parameter.mul_(factor)


def noise_pair(folder: Path, size: int = 384, seed: int = 0) -> pd.DataFrame:
    """One pair of noise images with a question that all these models can read."""
    return noise_pairs(folder, 1, size, seed)


def noise_pairs(folder: Path, n: int, size: int = 384, seed: int = 0) -> pd.DataFrame:
    """Pairs of noise images with one question; in each an object and a distractor are marked, side by side."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    masks = {}
    for name, columns in (("object", slice(0, size // 3)), ("distractor", slice(size // 2, size))):
        mask = np.zeros((size, size), dtype=np.uint8)
        mask[size // 4 : -size // 4, columns] = 255
        masks[name] = folder / f"{name}.png"
        Image.fromarray(mask).save(masks[name])
    for i in range(n):
        for side in ("clean", "corrupt"):
            image = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / f"{side}-{i}.png", compress_level=0)  # noise cannot be compressed
    return pd.DataFrame(
        {
            "sample_id": [f"noise-{i}" for i in range(n)],
            "task": "bench",
            "category": "noise",
            "clean_image": [str(folder / f"clean-{i}.png") for i in range(n)],
            "corrupt_image": [str(folder / f"corrupt-{i}.png") for i in range(n)],
            "clean_prompt": QUESTION,
            "corrupt_prompt": QUESTION,
            "correct_answer": "red",
            "incorrect_answer": "blue",
            "correct_first": True,
            "clean_object_mask": str(masks["object"]),
            "clean_distractor_mask": str(masks["distractor"]),
        }
    )
