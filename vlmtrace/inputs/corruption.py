"""Corruptions: the minimal changes of an input that give the other answer.

`image`: the corrupt image of a semantic image pair, with the clean prompt. `text`: the clean image, with both options
of the prompt replaced (symmetric token replacement). Both are those of NOTICE (Golovanevsky et al. 2025,
https://arxiv.org/abs/2406.16320). Clean and corrupt runs are aligned position by position.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch

from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.models import VLM, Inputs

#: Optional column of a pairs table: the given beginning of the answer, behind which the model goes on.
PREFIX = "answer_prefix"

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
    inputs = model.encode(list(pairs[image]), [model.prompt_text(text) for text in pairs[prompt]])
    prefixes = [prefix_of(pair) for pair in pairs.to_dict("records")] if PREFIX in pairs else []
    if not any(prefixes):
        return inputs
    ids = [model.spell_answer(prefix) if prefix else [] for prefix in prefixes]
    if len({len(one) for one in ids}) > 1:
        raise VlmtraceError("Answer prefixes of unlike numbers of tokens cannot share a batch: run them apart.")
    return model.extend(inputs, torch.tensor(ids))


def prefix_of(pair: Mapping[str, Any]) -> str:
    """The given beginning of a pair's answer.

    Args:
        pair: a row of a pairs table

    Returns:
        its answer_prefix; empty where it has none
    """
    prefix = pair.get(PREFIX)
    return prefix.strip() if isinstance(prefix, str) else ""


def with_instruction(pairs: pd.DataFrame, instruction: str = "", answer_prefix: str = "") -> pd.DataFrame:
    """Pairs whose prompts end with an instruction, and whose answers begin with given words.

    Models that were trained to chat answer in sentences, of which the first token says nothing about the options. An
    instruction ("Answer with one word.") or the beginning of the answer ("The answer is") brings the option to the
    first token that is measured.

    Args:
        pairs: a pairs table
        instruction: put behind both prompts of each pair, after a blank
        answer_prefix: the beginning of each answer

    Returns:
        the table with the longer prompts, and with the column answer_prefix if there is one; without either, the same
    """
    if instruction.strip():
        prompts = {name: pairs[name] + f" {instruction.strip()}" for name in ("clean_prompt", "corrupt_prompt")}
        pairs = pairs.assign(**prompts)
    return pairs.assign(**{PREFIX: answer_prefix.strip()}) if answer_prefix.strip() else pairs


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
