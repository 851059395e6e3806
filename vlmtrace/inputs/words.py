"""Where words begin and end in a prompt, in any script.

Most scripts part words by blanks; there "red" is no word of "hundred". Chinese, Japanese, Thai, Lao, Khmer, Burmese and
Tibetan write them side by side, so that a word may stand next to any letter. Korean puts particles right behind a word,
and Japanese writes loan words in katakana, one after the other with nothing else in it.

Texts are compared whatever their case and their Unicode form: "é" may be one character or two, and Korean syllables may
be spelled letter by letter, as file names of some systems are.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

#: Letters of scripts that do not part words by blanks: a set of characters for a regular expression.
UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan, Burmese, Khmer
    "\u3005-\u3007\u3040-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Japanese, Chinese
)
KATAKANA = "\u30a0-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
HANGUL = "\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff"

#: A word: letters in a row of a script that has blanks, with what follows an apostrophe ("dog's"); or one other letter.
WORD = re.compile(rf"(?:(?![{UNSPACED}])\w)+(?:['’](?:(?![{UNSPACED}])\w)+)*|[{UNSPACED}]")
#: The same without apostrophes, or a mark.
PIECE = re.compile(rf"(?:(?![{UNSPACED}])\w)+|[{UNSPACED}]|[^\w\s]")

_KINDS = {kind: re.compile(f"[{letters}]") for kind, letters in
          (("unspaced", UNSPACED), ("katakana", KATAKANA), ("hangul", HANGUL))}  # fmt: skip
_HYPHENS = "-\u2010\u2011"
#: They change how the character before them is drawn, and nothing about what it is.
_VARIATIONS = "\ufe0e\ufe0f"
#: Joiners, and the skin tones of emoji: they make one character of several.
_JOINING = re.compile("[\u200c\u200d\U0001f3fb-\U0001f3ff]")


def find_word(prompt: str, word: str) -> list[tuple[int, int]]:
    """Where a word stands in a prompt as a whole word, whatever its case ("man" is not in "woman").

    A word that is part of a hyphenated one counts only where it stands nowhere else: "blue" in "blue or blue-green?"
    is found once.

    Args:
        prompt: any text, in any script
        word: one word, or several

    Returns:
        the first and last-plus-one character of each occurrence

    >>> find_word("Is the man or the woman kicking?", "man")
    [(7, 10)]
    >>> find_word("这是红色还是蓝色？", "蓝色")
    [(6, 8)]
    """
    text, clusters = _folded(prompt)
    sought = _folded(word.strip())[0]
    free: list[tuple[int, int]] = []
    hyphenated: list[tuple[int, int]] = []
    at = text.find(sought) if sought else -1
    while at >= 0:
        end = at + len(sought)
        begins = at == 0 or clusters[at] != clusters[at - 1]
        ends = end == len(text) or clusters[end] != clusters[end - 1]
        if begins and ends:
            span = clusters[at][0], clusters[end - 1][1]
            if not _is_joined(prompt[: span[0]], prompt[span[0] :], at_start=True) and not _is_joined(
                prompt[: span[1]], prompt[span[1] :], at_start=False
            ):
                (hyphenated if _is_hyphenated(prompt, span) else free).append(span)
                at = end - 1
        at = text.find(sought, at + 1)
    return free or hyphenated


def folded(text: str) -> str:
    """A text as words are compared: without case and in one Unicode form.

    >>> folded("İstanbul") == folded("istanbul") == folded("ISTANBUL")
    True
    """
    return _folded(text)[0]


@lru_cache(maxsize=2**12)
def _folded(text: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A text without case and in one Unicode form, and for each character the span of the text that it is of."""
    found, spans, start = [], [], 0
    while start < len(text):
        end = start + 1
        while end < len(text) and (_is_mark(text[end]) or "\u1160" <= text[end] <= "\u11ff"):
            end += 1
        cluster = text[start:end].strip(_VARIATIONS).replace("’", "'").replace("ʼ", "'")
        form = unicodedata.normalize("NFC", unicodedata.normalize("NFC", cluster).casefold())
        form = form.replace("i\u0307", "i")  # a capital I with a dot (İstanbul) is that of i, which has one
        found.append(form)
        spans += [(start, end)] * len(form)
        start = end
    return "".join(found), tuple(spans)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def _is_joined(before: str, after: str, at_start: bool) -> bool:
    """Whether the characters on both sides of a place belong to one word."""
    if not before or not after:
        return False
    if _JOINING.match(before[-1]) or _JOINING.match(after[0]):
        return True
    left = next((character for character in reversed(before) if not _is_mark(character)), "")
    kinds = script(left), script(after[0])
    if "" in kinds or kinds[0] != kinds[1] or kinds[0] == "unspaced":
        return False
    return at_start or kinds[0] != "hangul"


def script(character: str) -> str:
    """How the script of a letter parts words: "spaced", "unspaced", "katakana" or "hangul"; "": it is no letter.

    Args:
        character: one
    """
    for kind, letters in _KINDS.items():
        if letters.match(character):
            return kind
    return "spaced" if character.isalnum() or character == "_" else ""


def _is_hyphenated(prompt: str, span: tuple[int, int]) -> bool:
    start, end = span
    before, after = prompt[:start], prompt[end:]
    return (len(before) > 1 and before[-1] in _HYPHENS and bool(script(before[-2]))) or (
        len(after) > 1 and after[0] in _HYPHENS and bool(script(after[1]))
    )
