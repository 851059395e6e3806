"""Texts that the language model writes before it is trained, and goes on to predict while it is.

What it samples follows its own distribution, so that their cross entropy is least where it still has that: it learns to
see, and forgets less of its language. No text from elsewhere is needed.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from vlmtrace.core.files import read_json, write_json
from vlmtrace.training.smol.assembled import END

log = logging.getLogger(__name__)

#: How the texts begin, in turns.
OPENINGS = (
    "The", "In the", "When", "A small", "My", "He", "She said", "To make", "It was", "There are", "Dear", "Most people",
    "If you", "After the", "We", "One day", "Water", "This is", "They", "At night", "Every", "The city", "During",
    "For",
)  # fmt: skip
N_TEXTS, LENGTH = 120, 80


@torch.no_grad()
def own_texts(model: Any, tokenizer: Any, seed: int, kept: Path) -> list[list[int]]:
    """Tokens of texts that a language model writes, each beginning with one of `OPENINGS`.

    Args:
        model: LlavaForConditionalGeneration, not trained yet
        tokenizer: its own
        seed: of what is drawn
        kept: where they are written with their seed, and read by a training of that seed that goes on

    Returns:
        `N_TEXTS` texts of `LENGTH` tokens at most
    """
    earlier = read_json(kept) if kept.is_file() else None
    if isinstance(earlier, dict) and earlier.get("seed") == seed:
        return earlier["texts"]
    generator = torch.Generator().manual_seed(seed)
    end = tokenizer.convert_tokens_to_ids(END)
    begun = [tokenizer(opening, add_special_tokens=False).input_ids for opening in OPENINGS]
    texts: list[list[int]] = []
    for length in sorted({len(ids) for ids in begun}):
        openings = [ids for ids in begun if len(ids) == length]
        rows = torch.tensor(openings * (N_TEXTS // len(OPENINGS)))  # (texts, length), and a column more each time
        new, cache = rows, None
        while rows.shape[1] < LENGTH:
            out = model.model.language_model(input_ids=new, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            probabilities = model.lm_head(out.last_hidden_state[:, -1]).float().softmax(-1)
            new = torch.multinomial(probabilities, 1, generator=generator)
            rows = torch.cat([rows, new], 1)
        texts += [row[: row.index(end) + 1] if end in row else row for row in rows.tolist()]
    order = torch.randperm(len(texts), generator=generator).tolist()
    texts = [texts[index] for index in order]
    log.info("%d texts of its own, such as: %s", len(texts), tokenizer.decode(texts[0])[:200])
    write_json({"seed": seed, "texts": texts}, kept)
    return texts
