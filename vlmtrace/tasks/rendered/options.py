"""The two options of a rendered pair, and the words that replace them in its corrupt prompt.

Both are drawn so that clean and corrupt prompt have equally many tokens under the tokenizer of the model in use. They
are first drawn for the bundled tokenizer, and drawn anew only where the one in use leaves them no replacements: so all
models are asked about the same scenes, as far as their words allow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from vlmtrace.tasks.building.token_replacement import CountTokens, Replacer
from vlmtrace.tasks.rendered.words import OPTIONS, n_tokens, replacements

if TYPE_CHECKING:
    from vlmtrace.models import VLM


def replacer_for(model: VLM | CountTokens | None) -> Replacer | None:
    """What counts the tokens of words and prompts under the tokenizer of the model in use.

    Args:
        model: the model in use, or its function that counts a prompt's tokens

    Returns:
        the counter; None for no model, and for one that draws prompts into the image: then the bundled tokenizer counts
    """
    return None if model is None or getattr(model, "draws_prompts", False) else Replacer(model)


@cache
def _replaceable(options: tuple[str, ...]) -> list[tuple[str, str]]:
    """Ordered pairs of options that token replacement can corrupt."""
    return [pair for pair in permutations(options, 2) if replacements(options, pair)]


def draw_options(rng: np.random.Generator, task: str, category: str) -> tuple[str, str]:
    """Draw the correct and the incorrect option.

    Args:
        rng: what is drawn from
        task: one of TASKS
        category: of the task; for faces, the correct emotion
    """
    pairs = _replaceable(OPTIONS[task][category])
    if task == "rendered_faces":
        pairs = [pair for pair in pairs if pair[0] == category]
    # Words first, so that each is correct equally often however many partners it has.
    correct = str(rng.choice(sorted({pair[0] for pair in pairs})))
    return correct, str(rng.choice([pair[1] for pair in pairs if pair[0] == correct]))


def options_for(
    replacer: Replacer | None, rng: np.random.Generator, task: str, category: str, options: tuple[str, str]
) -> tuple[str, str]:
    """Options that can be replaced under the tokenizer in use, with the same correct one if there are any.

    Args:
        replacer: counts tokens; None: the options are what they are
        rng: what is drawn from where they cannot be replaced
        task: one of TASKS
        category: of the task; for faces, the correct emotion
        options: that were drawn

    Returns:
        the same, where they can be replaced or where no others can; otherwise two others
    """
    choices = OPTIONS[task][category]
    if replacer is None or replacements(choices, options, replacer.length):
        return options
    pairs = [pair for pair in permutations(choices, 2) if replacements(choices, pair, replacer.length)]
    same = [pair for pair in pairs if pair[0] == options[0]]
    # The category of a face is its emotion, which has to stay.
    others = same or ([] if task == "rendered_faces" else pairs)
    return others[rng.integers(len(others))] if others else options


def draw_prompts(
    rng: np.random.Generator,
    ask: Callable[[Sequence[str]], str],
    choices: tuple[str, ...],
    ordered: tuple[str, str],
    replacer: Replacer | None,
) -> tuple[str, str]:
    """The clean prompt, and the same with both options replaced by words of as many tokens.

    Args:
        rng: what is drawn from
        ask: from two options to the prompt that names them
        choices: all options of the category
        ordered: the options in the order of the clean prompt
        replacer: counts tokens; None: those of the bundled tokenizer count

    Returns:
        both prompts; where no words fit, the clean one twice: a pair of images alone
    """
    clean = ask(ordered)
    found = replacements(choices, ordered, n_tokens if replacer is None else replacer.length)
    while found:
        corrupt = ask(found.pop(int(rng.integers(len(found)))))
        # A word may be split otherwise before a question mark than in the middle of a prompt.
        if replacer is None or replacer.count(corrupt) == replacer.count(clean):
            return clean, corrupt
    return clean, clean
