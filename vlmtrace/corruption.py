"""Corruptions: the minimal changes of an input that give the other answer.

`image`: the corrupt image of a semantic image pair, with the clean prompt. `text`: the clean image, with both options
of the prompt replaced (symmetric token replacement). Clean and corrupt runs are aligned position by position.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from vlmtrace.errors import VlmtraceError, one_of
from vlmtrace.models import VLM, Inputs, open_image
from vlmtrace.tokens import find_word

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


def equal_length_batches(
    model: VLM, prompts: Iterable[str], batch_size: int, *images: Iterable[Image.Image | str | Path]
) -> list[list[int]]:
    """Row numbers of prompts in batches of equally many tokens, so that nothing has to be padded.

    Args:
        images: for each run its images, one a prompt; those of a batch are of equal size if the model needs that
    """
    columns = images if model.image_size_matters else ()
    sizes = zip(*([open_image(image).size for image in column] for column in columns), strict=True)
    rows: dict[tuple, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault((model.count_tokens(prompt), next(sizes, ())), []).append(row)
    return [same[start : start + batch_size] for same in rows.values() for start in range(0, len(same), batch_size)]


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


def symmetric_token_replacement(
    prompt: str,
    options: Sequence[str],
    pool: Collection[str],
    count_tokens: Any,
    generator: np.random.Generator,
    synonyms: Mapping[str, Collection[str]] | None = None,
) -> str:
    """Replace every option of a prompt by another word of the same number of tokens.

    Args:
        options: the words to replace
        pool: words to choose from; an option, a synonym of one, or another word of the prompt is never chosen
        count_tokens: word -> number of tokens, under the tokenizer of the model in use
        synonyms: word -> words that mean nearly the same
    Raises:
        VlmtraceError: an option does not stand in the prompt, or the pool has no word for it
    """
    synonyms = synonyms or {}
    banned = set(options).union(*(synonyms.get(option, ()) for option in options))
    banned |= {word for word in pool if find_word(prompt, word)}
    candidates = sorted(word for word in pool if word not in banned and banned.isdisjoint(synonyms.get(word, ())))
    replaced = prompt
    for option in options:
        fitting = [word for word in candidates if count_tokens(word) == count_tokens(option)]
        spans = find_word(replaced, option)
        if not spans or not fitting:
            problem = "does not stand in it" if not spans else "has no replacement of the same number of tokens"
            raise VlmtraceError(f"The prompt {prompt!r} cannot be corrupted: the option {option!r} {problem}.")
        choice = str(generator.choice(fitting))
        candidates.remove(choice)
        for start, end in reversed(spans):
            replaced = replaced[:start] + choice + replaced[end:]
    return replaced
