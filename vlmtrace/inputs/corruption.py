"""Corruptions: the minimal changes of an input that give the other answer.

`image`: the corrupt image of a semantic image pair, with the clean prompt. `text`: the clean image, with both options
of the prompt replaced (symmetric token replacement). Both are those of NOTICE (Golovanevsky et al. 2025,
https://arxiv.org/abs/2406.16320). Clean and corrupt runs are aligned position by position.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from vlmtrace.core.errors import one_of
from vlmtrace.models import VLM, Inputs

#: Corruption -> columns of image and prompt of its run.
CORRUPTIONS: dict[str, tuple[str, str]] = {
    "image": ("corrupt_image", "clean_prompt"),
    "text": ("clean_image", "corrupt_prompt"),
}


def run_inputs(model: VLM, pairs: pd.DataFrame, run: str) -> Inputs:
    """Model inputs of one run for a batch of pairs.

    Args:
        model: its processor makes the inputs
        pairs: rows of a pairs table whose prompts have equally many tokens
        run: "clean", or the corruption "image" or "text"

    Returns:
        by name, tensors of (batch, …): token ids, pixel values and whatever else the family takes

    Raises:
        VlmtraceError: there is no such run, or an image cannot be read
    """
    one_of(run, ("clean", *CORRUPTIONS), "run")
    image, prompt = CORRUPTIONS.get(run, ("clean_image", "clean_prompt"))
    return model.encode(list(pairs[image]), [model.prompt_text(text) for text in pairs[prompt]])


def token_mismatch(model: VLM, pair: Mapping[str, Any]) -> str | None:
    """Whether the positions of a pair's clean and corrupt prompts correspond.

    Args:
        model: counts the tokens
        pair: a row of a pairs table

    Returns:
        None if both prompts have equally many tokens; otherwise a sentence that says so
    """
    clean, corrupt = (model.count_tokens(pair[column]) for column in ("clean_prompt", "corrupt_prompt"))
    if clean == corrupt:
        return None
    return (
        f"The clean prompt {pair['clean_prompt']!r} has {clean} tokens and the corrupt prompt "
        f"{pair['corrupt_prompt']!r} has {corrupt} under {model.name}'s tokenizer: "
        "choose replacements of the same number of tokens."
    )
