"""tiny-blip: its sizes, its tokens, and a forward pass that shares the image among its questions."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import BertTokenizer, BlipConfig, BlipForQuestionAnswering, BlipProcessor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from vlmtrace.tasks.rendered.canvas import SIZE
from vlmtrace.training.data import ANSWER_LENGTH, PADDING, PATCH, PROMPT_LENGTH, padded
from vlmtrace.training.losses import PatchHeads
from vlmtrace.training.tokenizer import build_tokenizer

NAME, CLASS = "tiny-blip", "BlipForQuestionAnswering"
WIDTH, HEADS, VISION_LAYERS, TEXT_LAYERS = 128, 8, 4, 4

#: Share of the minimal pairs in a batch, by what changes in them.
MIXTURE = {
    "color": 0.12, "shape": 0.16, "texture": 0.16, "emotion": 0.12, "subject": 0.12, "verb": 0.13, "object": 0.16,
    "count": 0.03,
}  # fmt: skip

BLOCKS = f"""| vision encoder ({SIZE} × {SIZE} pixels, patches of {PATCH}: {(SIZE // PATCH) ** 2} patches and [CLS]) \
| {VISION_LAYERS} | {HEADS} | {WIDTH} |
| question encoder, with cross-attention to the image | {TEXT_LAYERS} | {HEADS} | {WIDTH} |
| answer decoder, with cross-attention to the question | {TEXT_LAYERS} | {HEADS} | {WIDTH} |"""
ALONG = (
    "Linear heads on the image embeddings learn along, at every patch, what is there (thing, color, shape, texture,\n"
    "emotion, verb) from the scene's masks; they are dropped afterwards."
)
UNSEEN = "Held-out combinations never occur in training, neither in a picture nor in a question"
LIMITS = (
    "Encode questions of unlike length one length at a time: transformers' BLIP lets the decoder attend to padding."
)


def build_config(tokenizer) -> BlipConfig:
    """The configuration of tiny-blip, of a tokenizer's size."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "encoder_hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "projection_dim": WIDTH,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 32,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": tokenizer.pad_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "projection_dim": WIDTH,
        "num_hidden_layers": VISION_LAYERS,
        "num_attention_heads": HEADS,
        "image_size": SIZE,
        "patch_size": PATCH,
        "initializer_range": 0.02,
        "attention_dropout": 0.0,
    }
    return BlipConfig(text_config=text, vision_config=vision, projection_dim=WIDTH, image_text_hidden_size=WIDTH)


def build(seed: int) -> BlipForQuestionAnswering:
    """Random weights."""
    torch.manual_seed(seed)
    return BlipForQuestionAnswering(build_config(tokenizer()))


def load(folder: str) -> BlipForQuestionAnswering:
    """Saved weights."""
    return BlipForQuestionAnswering.from_pretrained(folder)


def patch_label_heads(model: BlipForQuestionAnswering) -> PatchHeads:
    """What predicts the label of every patch, from the image embeddings."""
    return PatchHeads(WIDTH)


@cache
def tokenizer() -> BertTokenizer:
    """Words and pieces of the rendered world."""
    return build_tokenizer()


def processor() -> BlipProcessor:
    """Scales images to 96 × 96 and to [-1, 1]; needs Pillow only."""
    size = {"height": SIZE, "width": SIZE}
    return BlipProcessor(BlipImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3), tokenizer())


@cache
def encode_prompt(prompt: str) -> list[int]:
    """[CLS] question [SEP], padded."""
    return padded(tokenizer()(prompt).input_ids, PROMPT_LENGTH)


@cache
def encode_answer(answer: str) -> list[int]:
    """[DEC] answer [SEP], padded."""
    words = tokenizer()
    ids = words(answer, add_special_tokens=False).input_ids
    return padded([words.bos_token_id, *ids, words.sep_token_id], ANSWER_LENGTH)


def embed_images(model: BlipForQuestionAnswering, pixels: Tensor) -> Tensor:
    """(B, 1 + 64, width) from (B, 96, 96, 3) uint8, scaled to [-1, 1] as the saved processor does."""
    values = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    return model.vision_model(pixel_values=values).last_hidden_state


def answer_logits(model: BlipForQuestionAnswering, image_embeds: Tensor, prompt: Tensor, answer: Tensor) -> Tensor:
    """Logits (B, Q, answer - 1, vocabulary) of Q questions about each image.

    The same numbers as the model's own forward pass, but the keys and values of an image are computed once for
    all its questions: these stand one after the other on the query axis of cross-attention.
    """
    (images, questions, length), width = prompt.shape, image_embeds.shape[-1]
    ids = prompt.flatten(0, 1)
    encoder: Any = model.text_encoder
    hidden = encoder.embeddings(input_ids=ids)
    is_padding = (ids == PADDING)[:, None, None]
    mask = torch.zeros(is_padding.shape, dtype=hidden.dtype).masked_fill(is_padding, torch.finfo(hidden.dtype).min)
    for layer in encoder.encoder.layer:
        hidden, _ = layer.attention(hidden, attention_mask=mask)
        by_image = hidden.view(images, questions * length, width)
        by_image, _ = layer.crossattention(by_image, encoder_hidden_states=image_embeds)
        hidden = layer.feed_forward_chunk(by_image.reshape(hidden.shape))
    return _decode(model, hidden, mask, answer.flatten(0, 1)[:, :-1]).unflatten(0, (images, questions))


def _decode(model: BlipForQuestionAnswering, question: Tensor, question_mask: Tensor, answer: Tensor) -> Tensor:
    """Logits (N, answer, vocabulary) of the next answer tokens, given questions (N, length, width).

    Runs the layers by hand since transformers' BLIP does not hand the question's mask on to cross-attention.
    """
    decoder: Any = model.text_decoder
    hidden = decoder.bert.embeddings(input_ids=answer)
    n = answer.shape[1]
    causal = torch.full((n, n), torch.finfo(hidden.dtype).min, dtype=hidden.dtype).triu(1)[None, None]
    for layer in decoder.bert.encoder.layer:
        hidden, _ = layer.attention(hidden, attention_mask=causal)
        cross = layer.crossattention
        read, _ = cross.self(hidden, encoder_hidden_states=question, encoder_attention_mask=question_mask)
        hidden = layer.feed_forward_chunk(cross.output(read, hidden))
    return decoder.cls(hidden)
