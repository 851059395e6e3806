"""tiny-blip: its sizes, its auxiliary heads, and a forward pass that shares the image among its questions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BlipConfig, BlipForQuestionAnswering

from vlmtrace.training.data import IGNORED, PADDING, PATCH, PATCH_CLASSES, SIZE

WIDTH, HEADS, VISION_LAYERS, TEXT_LAYERS = 128, 8, 4, 4


def build_config(tokenizer) -> BlipConfig:
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


class PatchHeads(nn.Module):
    """Linear readouts of the image embeddings at every patch; they teach the vision encoder and are then dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(WIDTH, len(classes)) for classes in PATCH_CLASSES.values())

    def forward(self, image_embeds: Tensor, labels: Tensor) -> Tensor:
        """Losses (heads,) of embeddings (B, 1 + 64, width) against labels (B, heads, 64)."""
        at_patches = image_embeds[:, 1:]
        losses = []
        for index, head in enumerate(self.heads):
            known = labels[:, index] != IGNORED
            chosen = labels[:, index][known]
            loss = F.cross_entropy(head(at_patches[known]).float(), chosen) if len(chosen) else at_patches.sum() * 0
            losses.append(loss)
        return torch.stack(losses)


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


def answer_loss(logits: Tensor, answer: Tensor) -> Tensor:
    """Mean cross entropy over the answer's tokens, its end included."""
    return F.cross_entropy(logits.flatten(0, 2).float(), answer[..., 1:].flatten(), ignore_index=PADDING)


def is_generated(logits: Tensor, answer: Tensor) -> Tensor:
    """(B, Q) bool: whether greedy decoding gives exactly this answer and ends."""
    target = answer[..., 1:]
    return ((logits.argmax(-1) == target) | (target == PADDING)).all(-1)
