"""Symmetric token replacement: both options of a prompt replaced by words of as many tokens.

The method is that of NOTICE (Golovanevsky et al. 2025, https://arxiv.org/abs/2406.16320). The guarantee is that clean
and corrupt prompt have equally many tokens under the tokenizer of the model in use, counted on the whole prompts: a
word may be split otherwise after a blank than alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.unreadable import reading_as_sentences
from vlmtrace.inputs.words import find_word, folded

if TYPE_CHECKING:
    from vlmtrace.models import VLM

#: From a text to its number of tokens.
CountTokens = Callable[[str], int]

#: The words that may stand in place of the first and of the second option.
Pool = tuple[Collection[str], Collection[str]]

#: The file of one's own data that holds further words.
WORDS = "words.txt"

#: How often other words are drawn when those drawn fit alone but not together.
TRIES = 20


def mutual(groups: Collection[Collection[str]]) -> dict[str, set[str]]:
    """What each word of some groups may be mistaken for: the other words of its groups.

    Args:
        groups: words that mean nearly the same

    Returns:
        word → the other words of its groups

    >>> mutual([("big", "large"), ("large", "huge")])["large"] == {"big", "huge"}
    True
    """
    found: dict[str, set[str]] = {}
    for group in groups:
        for word in group:
            found.setdefault(word, set()).update(other for other in group if other != word)
    return found


def words_beside(folder: Path) -> list[str]:
    """The further words, one per line, that may replace options in corrupt prompts of one's own data.

    Args:
        folder: that of the labels' folders or of the CSV; its words.txt is read

    Returns:
        the words; none where there is no such file

    Raises:
        VlmtraceError: the file cannot be read
    """
    path = folder / WORDS
    try:
        with reading_as_sentences(path):
            text = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise VlmtraceError(f"{path} is not in UTF-8: save it as UTF-8, one word per line.") from error
    return [line.strip() for line in text.split("\n") if line.strip()]


def _n_words(text: str) -> int:
    return len(text.split())


class Replacer:
    """Corrupts prompts for one model.

    Args:
        model: the model in use, or its function that counts a prompt's tokens; None: words are counted, and
            `check_pairs` will set aside what does not fit the model that is used then
        synonyms: word → words that mean nearly the same, or that it may also be called
    """

    def __init__(self, model: VLM | CountTokens | None, synonyms: Mapping[str, Collection[str]] | None = None):
        self.model: VLM | None = None
        self.count: CountTokens = _n_words
        if model is not None:
            # torch comes with it, and whoever has a model has torch.
            from vlmtrace.models import VLM

            if isinstance(model, VLM):
                self.model, self.count = model, model.count_tokens
            else:
                self.count = model
        self.synonyms = synonyms or {}
        self.lengths: dict[str, int] = {}

    @property
    def model_is_given(self) -> bool:
        """Whether tokens are counted, and not words."""
        return self.count is not _n_words

    @cached_property
    def name(self) -> str:
        """What counts the tokens, for a sentence."""
        return f"{self.model.name}'s tokenizer" if self.model else "the tokenizer in use"

    def length(self, word: str) -> int:
        """Tokens of a word in the middle of a prompt.

        Args:
            word: the word
        """
        if word not in self.lengths:
            self.lengths[word] = self.count(f"is it {word} here") - self.count("is it here")
        return self.lengths[word]

    def __call__(
        self, prompt: str, options: Sequence[str], pools: Sequence[Pool], generator: np.random.Generator
    ) -> str:
        """The prompt with both options replaced.

        Args:
            prompt: the clean prompt
            options: the words to replace
            pools: words to choose from for either option, the best pool first: the next is used only where one has no
                fitting words. An option, a synonym of one, or another word of the prompt is never chosen
            generator: what is drawn from

        Returns:
            the corrupt prompt, of as many tokens

        Raises:
            VlmtraceError: the model cannot tell the options apart, or no words fit
        """
        if self.model is not None:
            from vlmtrace.inputs.answers import check_options  # needs torch, as a model does

            check_options(self.model, options)
        banned = {folded(word) for word in _with_synonyms(options, self.synonyms)}
        for pool in pools:
            allowed = [[word for word in words if folded(word) not in banned] for words in pool]
            for _ in range(TRIES):
                replaced = prompt
                try:
                    for option, words in zip(options, allowed, strict=True):
                        replaced = symmetric_token_replacement(
                            replaced, [option], words, self.length, generator, self.synonyms
                        )
                except VlmtraceError:
                    break
                if self.count(replaced) == self.count(prompt):
                    return replaced
        raise VlmtraceError(
            f"no words of as many tokens under {self.name} can replace {options[0]!r} and {options[1]!r}"
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
        prompt: the clean prompt
        options: the words to replace
        pool: words to choose from; an option, a synonym of one, or another word of the prompt is never chosen
        count_tokens: from a word to its number of tokens, under the tokenizer of the model in use
        generator: what is drawn from
        synonyms: word → words that mean nearly the same

    Returns:
        the corrupt prompt

    Raises:
        VlmtraceError: an option does not stand in the prompt, or the pool has no word for it
    """
    synonyms = synonyms or {}
    banned = {folded(word) for word in _with_synonyms(options, synonyms)}
    banned |= {folded(word) for word in pool if find_word(prompt, word)}
    # One word in two cases is one word.
    distinct = {folded(word): word for word in sorted(pool, reverse=True)}
    candidates = sorted(
        word for key, word in distinct.items() if key not in banned and banned.isdisjoint(synonyms.get(word, ()))
    )
    replaced = prompt
    # Where scripts have no blanks, one option may lie in the other (红 in 粉红): the longer one goes first.
    for option in sorted(options, key=lambda option: not any(other != option and other in option for other in options)):
        spans = find_word(replaced, option)
        written = replaced[slice(*spans[0])] if spans else option
        fitting = [word for word in candidates if count_tokens(cased_as(word, written)) == count_tokens(written)]
        if not spans or not fitting:
            problem = "does not stand in it" if not spans else "has no replacement of the same number of tokens"
            raise VlmtraceError(f"The prompt {prompt!r} cannot be corrupted: the option {option!r} {problem}.")
        choice = str(generator.choice(fitting))
        candidates.remove(choice)
        for start, end in reversed(spans):
            replaced = replaced[:start] + cased_as(choice, replaced[start:end]) + replaced[end:]
    return replaced


def _with_synonyms(options: Sequence[str], synonyms: Mapping[str, Collection[str]]) -> set[str]:
    return set(options).union(*(synonyms.get(option, ()) for option in options))


def cased_as(word: str, other: str) -> str:
    """A word in the case of another, so that a corrupt prompt differs from the clean one in its words alone.

    Args:
        word: the one that is written anew
        other: the one whose case it takes: all small, all capitals, or the first letter a capital

    >>> cased_as("Yellow", "blue"), cased_as("yellow", "Blue"), cased_as("Yellow", "BLUE")
    ('yellow', 'Yellow', 'YELLOW')
    """
    if other.islower():
        return word.lower().replace("i\u0307", "i")  # what Python makes of a capital I with a dot
    if other.isupper() and len(other) > 1:
        return word.upper()
    return word[:1].upper() + word[1:] if other[:1].isupper() else word
