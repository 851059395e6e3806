"""A WordPiece tokenizer over the words of the rendered world."""

from __future__ import annotations

import string

from transformers import BertTokenizer

from vlmtrace.tasks.rendered import words as world

#: [DEC] starts an answer, [SEP] ends it.
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")

_GRAMMAR = (
    "is this a an the or person feeling feel does how what who where many are there color shape texture doing of and "
    "in on not yes no it which picture image shown"
)


def vocabulary() -> list[str]:
    """Special tokens, punctuation, letters (so that no lower-case word is unknown), then words and word pieces."""
    letters = [*string.ascii_lowercase, *string.digits]
    whole = [
        *_GRAMMAR.split(),
        *world.COLORS, *world.SHAPES, *world.TEXTURES, *world.NOUNS, *(f"{noun}s" for noun in world.NOUNS),
        "crosses", *world.EMOTIONS, *world.SUBJECTS, *world.VERBS, *world.OBJECTS, *world.NUMBERS, *world.PLACES,
        world.NEITHER, *world.FACE_DISTRACTORS, *world.SCENERY,
        *(synonym for group in world.SYNONYMS.values() for synonym in group),
    ]  # fmt: skip
    split = {*world.SPLIT_WORDS, *(f"{word}s" for word in world.SPLIT_WORDS), "crosss"}
    pieces = [piece for parts in world.SPLIT_WORDS.values() for piece in parts]
    tokens = [*SPECIAL, *"?.,!'-", *letters, *(f"##{letter}" for letter in letters)]
    tokens += [word for word in whole if word not in split] + pieces
    return list(dict.fromkeys(tokens))


def build_tokenizer() -> BertTokenizer:
    """A lower-case WordPiece tokenizer over `vocabulary`."""
    return BertTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary())},
        do_lower_case=True,
        bos_token="[DEC]",
        model_max_length=32,
    )
