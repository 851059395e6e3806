"""Corruptions: the minimal changes of an input that give the other answer.

`image`: the corrupt image of a semantic image pair, with the clean prompt. `text`: the clean image, with both options
of the prompt replaced (symmetric token replacement). Both are those of NOTICE (Golovanevsky et al. 2025,
https://arxiv.org/abs/2406.16320). Clean and corrupt runs are aligned position by position, so a corrupt prompt has to
have its words where the clean one has them: equal length alone does not say so, where one word has a token more and
another one less. Such pairs are refused.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import pandas as pd
import torch

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.inputs.encodable import encode_questions
from vlmtrace.inputs.pictures import given_images
from vlmtrace.inputs.words import PIECE
from vlmtrace.models import VLM, Inputs

#: Optional column of a pairs table: the given beginning of the answer, behind which the model goes on.
PREFIX = "answer_prefix"

#: Corruption -> columns of image and prompt of its run. Of several images, `clean_images` or `corrupt_images` has all.
CORRUPTIONS: dict[str, tuple[str, str]] = {
    "image": ("corrupt_image", "clean_prompt"),
    "text": ("clean_image", "corrupt_prompt"),
}


#: Corruption -> why a pair has none.
NOTHING_CORRUPTED = {
    "image": "the clean and the corrupt image are the same, so there is no image corruption",
    "text": "the clean and the corrupt prompt are the same, so there is no text corruption",
}


@checked
def run_inputs(model: VLM, pairs: pd.DataFrame, run: str) -> Inputs:
    """Model inputs of one run for a batch of pairs.

    Args:
        model: its processor makes the inputs
        pairs: rows of a pairs table whose prompts have equally many tokens
        run: "clean", or the corruption "image" or "text"

    Returns:
        by name, tensors of (batch, …): token ids, pixel values and whatever else the family takes

    Raises:
        VlmtraceError: there is no such run, an image cannot be read, or it or a prompt is none that the model takes;
            the sentence names the pair
    """
    one_of(run, ("clean", *CORRUPTIONS), "run")
    image, prompt = CORRUPTIONS.get(run, ("clean_image", "clean_prompt"))
    rows = [
        {"image": given_images(pair, image), "prompt": pair[prompt], "sample_id": pair.get("sample_id")}
        for pair in pairs.to_dict("records")
    ]
    inputs = encode_questions(model, rows, "pair")
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
    """Whether the positions of a pair's clean and corrupt prompts correspond, word by word.

    Args:
        model: splits the prompts into tokens
        pair: a row of a pairs table

    Returns:
        None if both prompts have equally many tokens and all words that are not replaced stand at the same positions
        (see `shifted_token`), or if the model draws prompts (see `drawn_mismatch`); otherwise a sentence that says what
        does not
    """
    prompts = [pair[column] for column in ("clean_prompt", "corrupt_prompt")]
    if prompts[0] == prompts[1] or model.draws_prompts:
        return None
    counts = [model.count_tokens(prompt) for prompt in prompts]
    if counts[0] != counts[1]:
        return (
            f"The clean prompt {prompts[0]!r} has {counts[0]} tokens and the corrupt prompt {prompts[1]!r} has "
            f"{counts[1]} under {model.name}'s tokenizer: choose replacements of the same number of tokens."
        )
    (clean, clean_words), (corrupt, corrupt_words) = (_tokens_and_words(model, prompt) for prompt in prompts)
    shifted = shifted_token(clean, corrupt, clean_words, corrupt_words)
    if shifted is None:
        return None
    token = model.tokenizer.convert_ids_to_tokens([clean[shifted[0]]])[0]
    return (
        f"The clean prompt {prompts[0]!r} and the corrupt prompt {prompts[1]!r} do not match word by word under "
        f"{model.name}'s tokenizer ({token!r} is token {shifted[0]} of the one, and token {shifted[1]} of the other "
        "belongs to it): replace each word by one of the same number of tokens."
    )


def drawn_mismatch(model: VLM, pair: Mapping[str, Any], corruptions: Sequence[str]) -> str | None:
    """Whether the positions of a pair's runs correspond, for a model that draws prompts into the image.

    Args:
        model: draws them
        pair: a row of a pairs table
        corruptions: of the corrupt runs

    Returns:
        None if they do, or if the model reads prompts as tokens; otherwise a sentence that says what does not

    Raises:
        VlmtraceError: a prompt cannot be drawn, or an image cannot be read
    """
    if not model.draws_prompts:
        return None
    clean, *corrupt = (run_inputs(model, pd.DataFrame([pair]), run) for run in ("clean", *corruptions))
    return next(filter(None, (model.misaligned(clean, inputs) for inputs in corrupt)), None)


def _tokens_and_words(model: VLM, prompt: str) -> tuple[list[int], list[int]]:
    """Token ids of a prompt as the model is given it, and the number of the word that each token begins in."""
    text = model.prompt_text(prompt)
    encoded = model.tokenizer(text, return_offsets_mapping=True, **model.tokenizer_options(text))
    # Many tokenizers give a word the space before it, so a token belongs to the word that its last character is in.
    words = [match.span() for match in PIECE.finditer(text)]
    ends = [end for _, end in words]
    return list(encoded.input_ids), [
        bisect_left(ends, end) if end > start else -1 for start, end in encoded.offset_mapping
    ]


def shifted_token(
    clean: Sequence[int], corrupt: Sequence[int], clean_words: Sequence[int], corrupt_words: Sequence[int]
) -> tuple[int, int] | None:
    """A word that stands at unlike positions of two equally long prompts, one of which is the other with replacements.

    The prompts correspond position by position where no other alignment finds more words in common: then their longest
    common subsequence is as long as the number of words that stand at the same position in both. Between those words,
    where as many words of the one are replaced as stand in the other, each has to have as many tokens.

    Args:
        clean: token ids
        corrupt: as many
        clean_words: the number of the word that each token belongs to; -1: to none, the token stands alone
        corrupt_words: those of the corrupt prompt

    Returns:
        position in the clean and in the corrupt prompt of the first word that is shifted; None: all correspond

    >>> shifted_token([1, 2, 7, 3], [1, 9, 7, 3], [0, 1, 2, 3], [0, 1, 2, 3])  # 9 instead of 2
    >>> shifted_token([1, 2, 7, 4, 5], [1, 8, 9, 7, 6], [0, 1, 2, 3, 3], [0, 1, 1, 2, 3])  # one token more, one less
    (2, 3)
    """
    sides = [_by_word(clean, clean_words), _by_word(corrupt, corrupt_words)]
    starts, spelled = zip(*((list(side), list(side.values())) for side in sides), strict=True)
    common = [(starts[0][i], starts[1][j]) for i, j in _common_subsequence(*spelled)]
    kept = {start for start, ids in sides[0].items() if sides[1].get(start) == ids}
    if len(common) > len(kept):
        return next((i, j) for i, j in common if i != j)
    between = [[list(run) for is_kept, run in groupby(side, key=kept.__contains__) if not is_kept] for side in starts]
    for first, second in zip(*between, strict=True):
        if len(first) == len(second) and first != second:
            return next((i, j) for i, j in zip(first, second, strict=True) if i != j)
    return None


def _by_word(ids: Sequence[int], words: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Where each word starts, and its token ids."""
    starts = [i for i in range(len(ids)) if i == 0 or words[i] != words[i - 1] or words[i] < 0]
    return {start: tuple(ids[start:end]) for start, end in zip(starts, [*starts[1:], len(ids)], strict=True)}


def _common_subsequence(first: Sequence[Any], second: Sequence[Any]) -> list[tuple[int, int]]:
    """Positions of one longest common subsequence of two sequences, by dynamic programming."""
    n, m = len(first), len(second)
    lengths = [[0] * (m + 1) for _ in range(n + 1)]  # of the rests from i and from j on
    for i in reversed(range(n)):
        for j in reversed(range(m)):
            both = first[i] == second[j]
            lengths[i][j] = lengths[i + 1][j + 1] + 1 if both else max(lengths[i + 1][j], lengths[i][j + 1])
    found, i, j = [], 0, 0
    while i < n and j < m:
        if first[i] == second[j]:
            found.append((i, j))
            i, j = i + 1, j + 1
        elif lengths[i + 1][j] >= lengths[i][j + 1]:
            i += 1
        else:
            j += 1
    return found
