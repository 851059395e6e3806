"""What the language model lost: its perplexity of plain text, which was written for this and is in no training set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

TEXT = Path(__file__).with_name("plain_text.txt")


@torch.no_grad()
def perplexity(model: Any, tokenizer: Any) -> float:
    """The exponential of the mean cross entropy of the text's tokens, each paragraph on its own.

    Args:
        model: LlavaForConditionalGeneration; it is given no image
        tokenizer: its own
    """
    total, count = 0.0, 0
    for paragraph in TEXT.read_text(encoding="utf-8").split("\n\n"):
        device = model.get_input_embeddings().weight.device
        ids = torch.tensor([tokenizer(" ".join(paragraph.split()), add_special_tokens=False).input_ids], device=device)
        hidden = model.model.language_model(input_ids=ids, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[0, :-1]).float()
        total += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += ids.shape[1] - 1
    return float(torch.tensor(total / count).exp())
