"""Minimal pairs of questions about a thing that is not in the picture.

The question asks for the color of a star, say, and offers the color that the corrupt image's star has. The clean image
shows something else in its place, of the same color, shape and texture: "neither" is right. As in POPE (Li et al. 2023,
https://arxiv.org/abs/2305.10355), a model that answers from its words says a color for things that are not there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from vlmtrace.core.errors import one_of
from vlmtrace.core.paths import RAW, relative
from vlmtrace.core.progress import progress
from vlmtrace.tasks.rendered import states
from vlmtrace.tasks.rendered.options import draw_options
from vlmtrace.tasks.rendered.pairs import SPLITS, VERSION, write_images
from vlmtrace.tasks.rendered.questions import states_prompt
from vlmtrace.tasks.rendered.words import COLORS, NEITHER, NOUNS, TASKS, is_held_out

#: The data set, and what its questions ask for.
ABSENT = "rendered_absent"
CATEGORY = "color"


@dataclass(frozen=True)
class AbsentPair:
    """One minimal pair before it is rendered.

    Attributes:
        clean: the scene without the thing that is asked about
        corrupt: the same with it
        noun: what is asked about
        color: the incorrect answer, which is the color of the thing in both scenes
        prompt: the question
        seen_combination: whether scenes and question show only combinations that occur in training
    """

    clean: states.StatesScene
    corrupt: states.StatesScene
    noun: str
    color: str
    prompt: str
    seen_combination: bool


def sample(seed: int, index: int, split: str = "test") -> AbsentPair:
    """Pair `index` of an endless sequence; the order of the two colors takes turns.

    Args:
        seed: another seed gives another sequence
        index: number in the sequence, from 0
        split: "train" (only combinations that occur in training), "validation" or "test"

    Raises:
        VlmtraceError: unknown split
    """
    # The first entry keeps these scenes apart from those of the other data sets.
    rng = np.random.default_rng([len(TASKS) + 1, SPLITS.index(one_of(split, SPLITS, "split")), seed, index])
    while True:
        color, other = draw_options(rng, "rendered_states", "color")
        shown = str(rng.choice([word for word in COLORS if word != other]))
        corrupt = states.sample_scene(rng, "color", (color, other), shown, held_out=split != "train")
        thing, distractor = corrupt.things
        elsewhere = [noun for noun in NOUNS if noun not in (thing.noun, distractor.noun)]
        there = replace(thing, noun=str(rng.choice(elsewhere)))
        seen = there.is_seen() and thing.is_seen() and not is_held_out(thing.noun, other)
        if split == "train" and not seen:
            continue
        offered = (color, other) if index % 2 == 0 else (other, color)
        clean = replace(corrupt, things=(there, distractor))
        return AbsentPair(clean, corrupt, thing.noun, color, states_prompt(thing.noun, offered), seen)


def load(n: int, seed: int, split: str = "test") -> pd.DataFrame:
    """Render n minimal pairs of questions about something absent and return their table.

    The first n pairs of a split and seed are always the same, to the byte; what is on disk already is not rendered
    again.

    Args:
        n: number of pairs
        seed: another seed gives other pairs
        split: "train" (only combinations that occur in training), "validation" or "test"

    Returns:
        the columns of a pairs table, with masks (the object is what stands in the place of the thing asked about), noun
        (that of the question), split and seen_combination. The correct answer is "neither"; both prompts are the same

    Raises:
        VlmtraceError: unknown split
    """
    folder = RAW / ABSENT / f"{one_of(split, SPLITS, 'split')}-seed{seed}" / f"v{VERSION}"
    return pd.DataFrame([_row(split, seed, i, folder) for i in progress(range(n), f"rendering {ABSENT}")])


def _row(split: str, seed: int, index: int, folder: Path) -> dict[str, object]:
    pair = sample(seed, index, split)
    names = ("clean_image", "corrupt_image", "clean_object_mask", "clean_distractor_mask")
    paths = {name: folder / f"{index:05d}-{name}.png" for name in names}
    if not all(path.is_file() for path in paths.values()):
        clean = pair.clean.render()
        drawn = (clean.pixels, pair.corrupt.render().pixels, clean.mask(1), clean.mask(2))
        write_images(dict(zip(paths.values(), drawn, strict=True)))
    files = {name: relative(path) for name, path in paths.items()}
    return {
        "sample_id": f"{ABSENT}-{split}-{seed}-{index:05d}",
        "task": ABSENT,
        "category": CATEGORY,
        "clean_image": files["clean_image"],
        "corrupt_image": files["corrupt_image"],
        "clean_prompt": pair.prompt,
        "corrupt_prompt": pair.prompt,
        "correct_answer": NEITHER,
        "incorrect_answer": pair.color,
        # "neither" does not stand in the prompt: then the alphabet decides.
        "correct_first": pair.color > NEITHER,
        "clean_object_mask": files["clean_object_mask"],
        "clean_distractor_mask": files["clean_distractor_mask"],
        "noun": pair.noun,
        "split": split,
        "seen_combination": pair.seen_combination,
    }
