"""Minimal pairs of questions for what a picture shows and for what is usual.

"What color is this cross?" asks for what is seen, "What color is a cross?" for what crosses mostly are: the same words
but one. Golovanevsky et al. 2025 (https://aclanthology.org/2025.emnlp-main.1262/) set both against each other in
pictures whose colors were changed. In the rendered world every thing has every color, so a model that learned it holds
nothing for usual; one that learned a skewed world does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from vlmtrace.core.arguments import Count, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.paths import RAW, relative
from vlmtrace.core.progress import progress
from vlmtrace.tasks.rendered import states
from vlmtrace.tasks.rendered.pairs import SPLITS, VERSION, write_images
from vlmtrace.tasks.rendered.words import COLORS, NOUNS, TASKS, is_held_out

#: The data set, and what its questions ask for.
USUAL = "rendered_usual"
CATEGORY = "color"


def shown_prompt(noun: str) -> str:
    """The question for the color that a picture shows.

    >>> shown_prompt("cross")
    'What color is this cross?'
    """
    return f"What color is this {noun}?"


def usual_prompt(noun: str) -> str:
    """The question for the usual color of such things.

    >>> usual_prompt("cross")
    'What color is a cross?'
    """
    return f"What color is a {noun}?"


@dataclass(frozen=True)
class UsualPair:
    """One minimal pair before it is rendered.

    Attributes:
        clean: a scene whose first thing is asked about
        corrupt: the same, with another color of this thing
        noun: the thing
        colors: its color in the clean and in the corrupt scene
        seen_combination: whether both scenes show only combinations that occur in training
    """

    clean: states.StatesScene
    corrupt: states.StatesScene
    noun: str
    colors: tuple[str, str]
    seen_combination: bool


def sample(seed: int, index: int, split: str = "test") -> UsualPair:
    """Pair `index` of an endless sequence: nouns take turns, then colors, then the colors of the corrupt scene.

    So 80 pairs have every noun in every color, and 720 have each of these with every other color.

    Args:
        seed: another seed gives another sequence
        index: number in the sequence, from 0
        split: "train" (only combinations that occur in training), "validation" or "test"

    Raises:
        VlmtraceError: unknown split
    """
    # The first entry keeps these scenes apart from those of the other data sets.
    rng = np.random.default_rng([len(TASKS) + 2, SPLITS.index(one_of(split, SPLITS, "split")), seed, index])
    noun = NOUNS[index % len(NOUNS)]
    colors = [color for color in COLORS if split != "train" or not is_held_out(noun, color)]
    number = index // len(NOUNS)
    # Colors are shifted by the noun, so that a few pairs have many of them.
    first = (number + 3 * (index % len(NOUNS))) % len(colors)
    step = 1 + number // len(colors) % (len(colors) - 1)
    color, other = colors[first], colors[(first + step) % len(colors)]
    while True:
        clean = states.sample_scene(rng, "color", (color, other), str(rng.choice(list(COLORS))), split != "train")
        if clean.things[0].noun == noun:
            break
    corrupt = clean.with_value("color", other)
    seen = all(scene.things[0].is_seen() for scene in (clean, corrupt))
    return UsualPair(clean, corrupt, noun, (color, other), seen)


@checked
def check_study(
    samples: Count, blanks: Count, conflicts: Count | None, patched: Count | None, layer_step: Count, asked_else: Count
) -> None:
    """Raise a sentence if a study of what is usual cannot be of this size.

    Args:
        samples: number of pairs; every thing must be shown in every color
        blanks: of them, those that are asked about a blank image, too
        conflicts: those in which shown and usual differ, which are split into thirds; None: all
        patched: those in which heads are patched; None: all
        layer_step: 1: every layer is looked at, 3: every third
        asked_else: questions of another task

    Raises:
        VlmtraceError: a number is too small, or none

    >>> check_study(80, 80, None, None, 1, 24)
    """
    least = len(NOUNS) * len(COLORS)
    if samples < least:
        raise VlmtraceError(f"samples must be at least {least}, not {samples}, so that every thing has every color.")
    if conflicts is not None and conflicts < 3:
        raise VlmtraceError(f"conflicts must be at least 3, not {conflicts}, since pairs are split into thirds.")


def load(n: int, seed: int, split: str = "test") -> pd.DataFrame:
    """Render n minimal pairs of questions for what is shown and for what is usual, and return their table.

    The first n pairs of a split and seed are always the same, to the byte; what is on disk already is not rendered
    again.

    Args:
        n: number of pairs; 80 have every noun in every color, 720 also with every other color in the corrupt image
        seed: another seed gives other pairs
        split: "train" (only combinations that occur in training), "validation" or "test"

    Returns:
        the columns of a pairs table, with masks, noun, split and seen_combination. The clean prompt asks for what the
        picture shows, the corrupt prompt for what is usual

    Raises:
        VlmtraceError: unknown split
    """
    folder = RAW / USUAL / f"{one_of(split, SPLITS, 'split')}-seed{seed}" / f"v{VERSION}"
    return pd.DataFrame([_row(split, seed, i, folder) for i in progress(range(n), f"rendering {USUAL}")])


def _row(split: str, seed: int, index: int, folder: Path) -> dict[str, object]:
    pair = sample(seed, index, split)
    names = ("clean_image", "corrupt_image", "clean_object_mask", "clean_distractor_mask")
    paths = {name: folder / f"{index:05d}-{name}.png" for name in names}
    if not all(path.is_file() for path in paths.values()):
        clean = pair.clean.render()
        drawn = (clean.pixels, pair.corrupt.render().pixels, clean.mask(1), clean.mask(2))
        write_images(dict(zip(paths.values(), drawn, strict=True)))
    files = {name: relative(path) for name, path in paths.items()}
    correct, incorrect = pair.colors
    return {
        "sample_id": f"{USUAL}-{split}-{seed}-{index:05d}",
        "task": USUAL,
        "category": CATEGORY,
        "clean_image": files["clean_image"],
        "corrupt_image": files["corrupt_image"],
        "clean_prompt": shown_prompt(pair.noun),
        "corrupt_prompt": usual_prompt(pair.noun),
        "correct_answer": correct,
        "incorrect_answer": incorrect,
        # No option stands in the prompt: then the alphabet decides.
        "correct_first": correct < incorrect,
        "clean_object_mask": files["clean_object_mask"],
        "clean_distractor_mask": files["clean_distractor_mask"],
        "noun": pair.noun,
        "split": split,
        "seen_combination": pair.seen_combination,
    }
