"""The words of the rendered world: what exists in it, which words ask about it, which combinations are held out."""

from __future__ import annotations

from collections.abc import Callable

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (212, 44, 46),
    "orange": (241, 138, 30),
    "yellow": (246, 212, 54),
    "green": (52, 158, 76),
    "blue": (48, 100, 212),
    "purple": (134, 62, 172),
    "pink": (246, 146, 190),
    "brown": (128, 80, 46),
    "black": (36, 36, 42),
    "white": (250, 250, 248),
}
SHAPES = ("tiny", "huge", "tall", "wide", "broken", "hollow")
TEXTURES = ("plain", "furry", "striped", "dotted", "checkered", "zigzag")
NOUNS = ("circle", "square", "triangle", "star", "heart", "cross", "diamond", "crescent")

EMOTIONS = ("angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised")
HATS = ("bareheaded", "cap", "beanie", "cone", "crown")
FACE_DISTRACTORS = ("balloon", "plant", "candle", "mushroom")

SUBJECTS = ("girl", "boy", "dog", "cat", "robot")
VERBS = ("kicking", "holding", "lifting", "pushing", "watching", "throwing")
OBJECTS = ("ball", "box", "kite", "cup", "umbrella", "guitar")
SCENERY = ("tree", "house", "lamp", "cactus")

NUMBERS = ("one", "two", "three", "four")
PLACES = ("left", "right", "top", "bottom")

#: What a choice question answers when both of its options are wrong.
NEITHER = "neither"

TASKS = ("rendered_states", "rendered_faces", "rendered_svo")

#: The words that can stand as options, by task and category.
OPTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "rendered_states": {"color": tuple(COLORS), "shape": SHAPES, "texture": TEXTURES},
    "rendered_faces": {emotion: EMOTIONS for emotion in EMOTIONS},
    "rendered_svo": {"subject": SUBJECTS, "verb": VERBS, "object": OBJECTS},
}

#: Words that mean the same: an option is never replaced by a synonym of an option of the pair.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "tiny": ("small", "little"),
    "huge": ("big", "large", "giant"),
    "tall": ("high",),
    "wide": ("broad",),
    "broken": ("cracked", "split"),
    "hollow": ("empty",),
    "plain": ("solid", "smooth"),
    "furry": ("hairy", "fuzzy"),
    "striped": ("lined",),
    "dotted": ("spotted",),
    "checkered": ("checked",),
    "purple": ("violet",),
    "angry": ("mad", "furious"),
    "disgusted": ("revolted",),
    "fearful": ("afraid", "scared"),
    "happy": ("glad", "joyful"),
    "neutral": ("calm",),
    "sad": ("unhappy",),
    "surprised": ("astonished",),
    "holding": ("carrying",),
    "lifting": ("raising",),
    "pushing": ("shoving",),
    "watching": ("observing",),
    "throwing": ("tossing",),
    "ball": ("sphere",),
    "box": ("crate",),
    "cup": ("mug",),
}

#: Words that the tokenizer knows only in pieces, so that multi-token words occur here as they do in life.
#: Every verb splits, four of the six textures, two of the six objects, some nouns.
SPLIT_WORDS: dict[str, tuple[str, ...]] = {
    "triangle": ("tri", "##angle"),
    "diamond": ("dia", "##mond"),
    "crescent": ("cres", "##cent"),
    "striped": ("strip", "##ed"),
    "dotted": ("dott", "##ed"),
    "checkered": ("checker", "##ed"),
    "zigzag": ("zig", "##zag"),
    "umbrella": ("umb", "##rella"),
    "guitar": ("gui", "##tar"),
    **{verb: (verb.removesuffix("ing"), "##ing") for verb in VERBS},
}


def n_tokens(word: str) -> int:
    """How many tokens a word of this world has under the bundled tokenizer.

    >>> n_tokens("red"), n_tokens("guitar")
    (1, 2)
    """
    return len(SPLIT_WORDS.get(word, (word,)))


def replacements(
    category_options: tuple[str, ...], options: tuple[str, str], length: Callable[[str], int] = n_tokens
) -> list[tuple[str, str]]:
    """All ways to replace both options symmetrically.

    Each is replaced by another option of the category with the same number of tokens, by no option of the pair, by no
    synonym of one, and by two different words.

    Args:
        category_options: all options of the category
        options: the two to replace
        length: from a word to its number of tokens, under the tokenizer of the model in use; the bundled one otherwise

    Returns:
        pairs of words that may stand in place of the first and of the second option
    """
    forbidden = {*options, *(word for option in options for word in SYNONYMS.get(option, ()))}
    first, second = (
        [word for word in category_options if word not in forbidden and length(word) == length(option)]
        for option in options
    )
    return [(a, b) for a in first for b in second if a != b]


def is_held_out(first: str, second: str) -> bool:
    """Whether a combination is kept out of all training images.

    About one in seven of noun × color, noun × shape, noun × texture, emotion × hat, subject × verb and verb × object.
    Every word still occurs in training, with other partners.

    Args:
        first: a noun, an emotion, a subject or a verb
        second: what it is combined with

    Raises:
        KeyError: such words are never combined
    """
    for partners, values, modulus in _COMBINATIONS:
        if first in partners and second in values:
            return (3 * partners.index(first) + values.index(second)) % modulus == 0
    raise KeyError((first, second))


_COMBINATIONS = (
    (NOUNS, tuple(COLORS), 7),
    (NOUNS, SHAPES, 7),
    (NOUNS, TEXTURES, 7),
    (EMOTIONS, HATS, 7),
    (SUBJECTS, VERBS, 7),
    (VERBS, OBJECTS, 7),
)
