"""What each token is in its prompt (the correct option, the noun, a mark, …), found by character offsets.

Roles make prompts of unlike length comparable: the effect at "the correct option" can be averaged over pairs although
that option stands at position 5 in one prompt and at 7 in another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from vlmtrace.core.arguments import checked
from vlmtrace.inputs.pictures import given_images, prompt_of
from vlmtrace.inputs.words import PIECE, WORD, find_word, script

if TYPE_CHECKING:
    from vlmtrace.models import VLM, Inputs, Token

#: Optional columns of a pairs table that hold a word of the prompt; the word's tokens get the column's name as role.
WORD_COLUMNS = ("noun", "subject", "verb", "object")

#: Words that carry grammar only; each is a role of its own. All remaining words share the role "other".
FUNCTION_WORDS = frozenset(
    (
        "a an and are at be by can color could do does doing feeling for from has have he how in is it kind "
        "many of on or she that the their there these they this those to was were what where which who with"
    ).split()
)


#: The role of tokens that show an image: of the only one, or of one of several, counted from 1.
IMAGE_ROLE = re.compile(r"image(?: [0-9]+)?")


def shows_image(roles: pd.Series) -> pd.Series:
    """Which token roles are those of an image, the only one or one of several.

    Args:
        roles: token roles

    >>> shows_image(pd.Series(["image", "image 2", "noun"])).tolist()
    [True, True, False]
    """
    return roles.astype(str).str.fullmatch(IMAGE_ROLE)


@checked
def token_table(model: VLM, pair: Mapping[str, Any], block: str, inputs: Inputs) -> pd.DataFrame:
    """What stands at each position of a block for one pair's clean prompt.

    Args:
        model: tokenizes the prompt
        pair: a row of a pairs or evaluated table
        block: whose positions
        inputs: the pair's inputs (batch 1)

    Returns:
        one row per position: position, token, token_role; what a chat template writes around the prompt has the role
        "template", special tokens aside; of several images, tokens have the roles "image 1", "image 2", …
    """
    asked = str(pair["clean_prompt"])
    images = given_images(pair) if "clean_image" in pair else None
    text = prompt_of(model, asked, images)
    # Chat templates may trim a prompt; words of the template are never taken for the prompt's.
    first = max(0, text.rfind(asked.strip()))
    words = range(first, first + len(asked.strip()))
    spans = {
        role: [(start + first, end + first) for start, end in found]
        for role, found in role_spans(text[words.start : words.stop], pair).items()
    }
    several = images if isinstance(images, list) else None
    tokens = model.tokens(block, text, inputs) if several is None else model.tokens(block, text, inputs, several)
    return pd.DataFrame(
        {
            "position": range(len(tokens)),
            "token": [token.text for token in tokens],
            "token_role": [token.role or _role(token, text, words, spans) for token in tokens],
        }
    )


def role_spans(prompt: str, pair: Mapping[str, Any]) -> dict[str, list[tuple[int, int]]]:
    """Where the words stand whose role the pair's columns tell: correct, incorrect, noun, subject, verb, object.

    Args:
        prompt: the clean prompt
        pair: a row of a pairs or evaluated table

    Returns:
        by role, the first and last-plus-one character of each occurrence

    >>> role_spans("Is this circle red or blue?", {"correct_answer": "red", "noun": "circle"})
    {'correct': [(15, 18)], 'noun': [(8, 14)]}
    """
    words = {"correct": pair.get("correct_answer"), "incorrect": pair.get("incorrect_answer")}
    words |= {column: pair.get(column) for column in WORD_COLUMNS}
    found = {role: find_word(prompt, word) for role, word in words.items() if isinstance(word, str) and word}
    # Where scripts have no blanks, one option may lie in the other: 红 (red) in 粉红 (pink).
    options = [span for role in ("correct", "incorrect") for span in found.get(role, [])]
    return {
        role: [span for span in spans if not any(_lies_in(span, option) for option in options)]
        for role, spans in found.items()
    }


def _lies_in(span: tuple[int, int], other: tuple[int, int]) -> bool:
    return span != other and other[0] <= span[0] and span[1] <= other[1]


def _role(token: Token, text: str, words: range, spans: dict[str, list[tuple[int, int]]]) -> str:
    start, end = token.span
    # Many tokenizers give a word the space before it, and that may be the only thing it shares with the template.
    start += len(text[start:end]) - len(text[start:end].lstrip())
    if start >= end:
        return "space"
    if not (start < words.stop and end > words.start):
        return "template"
    for role, found in spans.items():
        if any(start < stop and end > begin for begin, stop in found):
            return role
    word = _whole_word(text, start, end).lower()
    return word if word in FUNCTION_WORDS or not any(map(str.isalnum, word)) else "other"


def _whole_word(text: str, start: int, end: int) -> str:
    """The word that the characters start … end belong to, or those characters themselves."""
    for match in PIECE.finditer(text):
        if match.start() <= start < match.end() and script(match.group()[0]):
            return match.group()
    return text[start:end].strip()


def joined_words(tokens: Sequence[Token], text: str) -> pd.DataFrame:
    """The word that each token belongs to, by character offsets, so that sub-tokens of any tokenizer come together.

    Args:
        tokens: from `VLM.tokens`, for this text
        text: what was tokenized

    Returns:
        one row per token: word_index (equal for neighbors of one word), word. What stands in no word (punctuation,
        special tokens, image tokens) is a word of its own; a token of two words counts for the first
    """
    words = list(WORD.finditer(text))
    rows: list[tuple[int, str]] = []
    before = None
    for i, token in enumerate(tokens):
        start, end = token.span
        start += len(text[start:end]) - len(text[start:end].lstrip())
        special = token.role == token.text or (token.role is not None and IMAGE_ROLE.fullmatch(token.role) is not None)
        match = None if special else next((m for m in words if m.start() <= start < min(m.end(), end)), None)
        key = ("word", match.start()) if match else ("token", i)
        own = text[start:end].strip()
        index = rows[-1][0] + (key != before) if rows else 0
        rows.append((index, match.group() if match else token.text if special or not own else own))
        before = key
    return pd.DataFrame(rows, columns=["word_index", "word"])
