"""A forward pass in which all questions about an image share its tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vlmtrace.training.data import GRID
from vlmtrace.training.smol.stream import EVERYBODY, NOBODY, ROUND, Batch, Encoder
from vlmtrace.training.tiny_llava import scaled


def answer_logits(model: Any, batch: Batch, encoder: Encoder) -> Tensor:
    """Logits (targets, vocabulary) from which the tokens of the answers are predicted.

    The same numbers as the model's own forward pass on every question alone. Nothing is read at image tokens, so that
    no loss can act on them but through the answers.

    Args:
        model: LlavaForConditionalGeneration
        batch: packed questions
        encoder: what made them
    """
    stream = model.get_input_embeddings()(batch.ids)  # (rows, T, width)
    n_images = len(batch.pixels)
    if n_images:
        with torch.no_grad():
            seen = model.model.vision_tower(pixel_values=scaled(batch.pixels)).last_hidden_state[:, 1:]
        tokens = model.model.multi_modal_projector(seen.float()).to(stream.dtype)
        first, last = len(encoder.start), len(encoder.start) + GRID**2
        with_image = torch.cat([stream[:n_images, :first], tokens, stream[:n_images, last:]], 1)
        stream = torch.cat([with_image, stream[n_images:]])
    out = model.model.language_model(
        inputs_embeds=stream,
        attention_mask=visible(batch.owner),
        position_ids=batch.position,
        use_cache=False,
    )
    hidden = out.last_hidden_state[batch.at[:, 0], batch.at[:, 1]]  # (targets, width)
    logits = model.lm_head(F.pad(hidden, (0, 0, 0, -len(hidden) % ROUND)))
    return logits[: len(hidden)].float()


def visible(owner: Tensor) -> Tensor:
    """(rows, 1, T, T) bool: whether a query (row) sees a key: what came before, if it is everybody's or its own.

    Args:
        owner: (rows, T), as of `Batch`
    """
    same = (owner[:, :, None] == owner[:, None]) | (owner == EVERYBODY)[:, None]
    seen = same.tril() & (owner != NOBODY)[:, None]
    # Padding sees itself, so that its softmax is not empty.
    return (seen | torch.eye(owner.shape[1], dtype=torch.bool, device=owner.device))[:, None]


def is_right(logits: Tensor, batch: Batch) -> Tensor:
    """(questions,) bool: whether greedy decoding gives exactly this answer and ends.

    Args:
        logits: of `answer_logits`
        batch: what they were computed of
    """
    count = int(batch.question.max()) + 1
    wrong = (logits.argmax(-1) != batch.target).long()
    return torch.zeros(count, dtype=torch.long, device=wrong.device).index_add_(0, batch.question, wrong) == 0
