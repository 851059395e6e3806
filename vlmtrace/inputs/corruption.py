"""Corruptions: the minimal changes of an input that give the other answer.

`image`: the corrupt image of a semantic image pair, with the clean prompt. `text`: the clean image, with both options
of the prompt replaced (symmetric token replacement). Clean and corrupt runs are aligned position by position.
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
    """Model inputs of the clean run, or of a corruption's run, for a batch of pairs."""
    one_of(run, ("clean", *CORRUPTIONS), "run")
    image, prompt = CORRUPTIONS.get(run, ("clean_image", "clean_prompt"))
    return model.encode(list(pairs[image]), [model.prompt_text(text) for text in pairs[prompt]])


def token_mismatch(model: VLM, pair: Mapping[str, Any]) -> str | None:
    """A sentence if clean and corrupt prompts do not have equally many tokens, so that positions do not correspond."""
    clean, corrupt = (model.count_tokens(pair[column]) for column in ("clean_prompt", "corrupt_prompt"))
    if clean == corrupt:
        return None
    return (
        f"The clean prompt {pair['clean_prompt']!r} has {clean} tokens and the corrupt prompt "
        f"{pair['corrupt_prompt']!r} has {corrupt} under {model.name}'s tokenizer: "
        "choose replacements of the same number of tokens."
    )
