"""Models with random weights of sizes that matter, and a pair for them: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

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

from vlmtrace.core.paths import MODELS

QUESTION = "is this circle red or blue?"


def blip_vqa_base(folder: Path, seed: int = 0) -> Path:
    """A BLIP of blip-vqa-base's size with random weights, saved in `folder` with a processor; nothing is downloaded.

    12 layers and 12 heads in each stack, 384 × 384 pixels in patches of 16, vocabulary 30,524 (the sizes of the
    published checkpoint's configuration). Weights are drawn wide enough that patches change the answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *"is this circle red or blue ? a b".split()]
    words += [f"[unused{i}]" for i in range(30524 - len(words))]
    vocabulary = folder / "words.txt"
    vocabulary.write_text("\n".join(words))
    text = dict(
        vocab_size=len(words),
        num_hidden_layers=12,
        num_attention_heads=12,
        bos_token_id=words.index("[DEC]"),
        sep_token_id=words.index("[SEP]"),
        eos_token_id=words.index("[SEP]"),
        pad_token_id=0,
    )
    model = BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=dict(image_size=384, patch_size=16)))
    draw_wide(model, seed)
    model.save_pretrained(folder)
    processor = BlipProcessor(
        BlipImageProcessorPil(size={"height": 384, "width": 384}), BertTokenizer(vocab=str(vocabulary))
    )
    processor.save_pretrained(folder)
    return folder


def long_llava(folder: Path, seed: int = 0) -> Path:
    """A narrow LLaVA with random weights whose image takes 625 positions, saved in `folder` with a processor.

    Its tokenizer and its chat template are tiny-llava's. Text of 12 layers, 16 heads and width 512; 350 × 350 pixels in
    patches of 14.
    """
    size, patch = 350, 14
    bundled = LlavaProcessor.from_pretrained(MODELS / "tiny-llava")
    words = bundled.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, image_size=size,
        patch_size=patch, projection_dim=128,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(words), hidden_size=512, intermediate_size=1408, num_hidden_layers=12, num_attention_heads=16,
        num_key_value_heads=16, max_position_embeddings=1024, pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
    )  # fmt: skip
    image_token = words.convert_tokens_to_ids(bundled.image_token)
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=image_token, image_seq_length=(size // patch) ** 2
    )
    model = LlavaForConditionalGeneration(config)
    draw_wide(model, seed)
    model.save_pretrained(folder)
    sides = {"height": size, "width": size}
    LlavaProcessor(
        CLIPImageProcessorPil(size=sides, do_center_crop=False),
        words,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=bundled.chat_template,
    ).save_pretrained(folder)
    return folder


def draw_wide(model: nn.Module, seed: int) -> None:
    """Draw all weights anew, wide enough that patches change the answer."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name.lower():
                parameter.normal_(0, 0.02 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5)


def noise_pair(folder: Path, size: int = 384, seed: int = 0) -> pd.DataFrame:
    """One pair of noise images with a question both models can read."""
    generator = np.random.default_rng(seed)
    for side in ("clean", "corrupt"):
        Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f"{side}.png")
    return pd.DataFrame(
        {
            "sample_id": ["noise"],
            "task": "bench",
            "category": "noise",
            "clean_image": str(folder / "clean.png"),
            "corrupt_image": str(folder / "corrupt.png"),
            "clean_prompt": QUESTION,
            "corrupt_prompt": QUESTION,
            "correct_answer": "red",
            "incorrect_answer": "blue",
            "correct_first": True,
        }
    )
