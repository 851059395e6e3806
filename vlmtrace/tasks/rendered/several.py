"""Minimal pairs of questions about two pictures of the rendered world, of which one or both are corrupted.

| category | question | what the corrupt run sees |
| --- | --- | --- |
| which | Which picture shows a red circle, the first or the second? | both, with their colors exchanged |
| color | Is the circle in the second picture red or blue? | that picture with the other color |
| same | Is the circle of the same color in both pictures, yes or no? | one picture with another color |

The other picture stays as it was. Answers of "which" and "same" are no words that could be replaced, so these are pairs
of images alone. "color" has text corruption, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vlmtrace.core.errors import one_of
from vlmtrace.core.paths import RAW, relative
from vlmtrace.core.progress import progress
from vlmtrace.tasks.building.token_replacement import CountTokens, Replacer
from vlmtrace.tasks.rendered import states
from vlmtrace.tasks.rendered.options import draw_options, draw_prompts, replacer_for
from vlmtrace.tasks.rendered.pairs import SPLITS, VERSION, write_images
from vlmtrace.tasks.rendered.words import OPTIONS, TASKS

if TYPE_CHECKING:
    from vlmtrace.models import VLM

#: The data set, and what it asks.
PICTURES = "rendered_pictures"
CATEGORIES = ("which", "color", "same")

#: How a prompt names the two pictures.
ORDINALS = ("first", "second")

Scenes = tuple[states.StatesScene, states.StatesScene]


@dataclass(frozen=True)
class PicturesPair:
    """One minimal pair of questions about two pictures, before they are rendered.

    Attributes:
        clean: the scenes that show the correct answer
        corrupt: the same with the color of what is asked about changed, in one of them or in both
        category: one of `CATEGORIES`
        options: the correct and the incorrect answer
        correct_first: whether the correct option stands first in the prompt
        clean_prompt: the question
        corrupt_prompt: the question with both options replaced; the same where options are not replaced
        noun: what is asked about
    """

    clean: Scenes
    corrupt: Scenes
    category: str
    options: tuple[str, str]
    correct_first: bool
    clean_prompt: str
    corrupt_prompt: str
    noun: str

    @property
    def changed(self) -> int:
        """The first picture that differs, counted from 0."""
        return next(i for i in (0, 1) if self.clean[i] != self.corrupt[i])


def sample(seed: int, index: int, split: str = "test", replacer: Replacer | None = None) -> PicturesPair:
    """Pair `index` of an endless sequence; categories and option orders take turns.

    Args:
        seed: another seed gives another sequence
        index: number in the sequence, from 0
        split: "train" (only combinations that occur in training), "validation" or "test"
        replacer: counts tokens for the model in use; None: those of the bundled tokenizer count

    Raises:
        VlmtraceError: unknown split
    """
    # The first entry keeps these scenes apart from those of the tasks that show one picture.
    rng = np.random.default_rng([len(TASKS), SPLITS.index(one_of(split, SPLITS, "split")), seed, index])
    category, correct_first = CATEGORIES[index // 2 % len(CATEGORIES)], index % 2 == 0
    colors = draw_options(rng, "rendered_states", "color")
    scenes = _two_scenes(rng, colors, held_out=split != "train")
    noun = scenes[0].things[0].noun
    if category == "color":
        return _color(rng, scenes, noun, colors, correct_first, replacer)
    build = {"which": _which, "same": _same}[category]
    return build(rng, scenes, noun, colors, correct_first)


def _two_scenes(rng: np.random.Generator, colors: tuple[str, str], held_out: bool) -> Scenes:
    """Two scenes that both show the same kind of thing, in the first color; in both it can be given the second."""

    def scene() -> states.StatesScene:
        distractor = colors[1] if rng.uniform() < 0.6 else str(rng.choice(OPTIONS["rendered_states"]["color"]))
        return states.sample_scene(rng, "color", colors, distractor, held_out)

    first = scene()
    while (second := scene()).things[0].noun != first.things[0].noun:
        pass
    return first, second


def _colored(scenes: Scenes, first: str, second: str) -> Scenes:
    return scenes[0].with_value("color", first), scenes[1].with_value("color", second)


def _which(
    _: np.random.Generator, scenes: Scenes, noun: str, colors: tuple[str, str], correct_first: bool
) -> PicturesPair:
    asked, other = colors
    options = ORDINALS if correct_first else ORDINALS[::-1]
    both = _colored(scenes, asked, other), _colored(scenes, other, asked)
    clean, corrupt = both if correct_first else both[::-1]
    article = "an" if asked[0] in "aeiou" else "a"
    prompt = f"Which picture shows {article} {asked} {noun}, the first or the second?"
    return PicturesPair(clean, corrupt, "which", options, correct_first, prompt, prompt, noun)


def _color(
    rng: np.random.Generator,
    scenes: Scenes,
    noun: str,
    colors: tuple[str, str],
    correct_first: bool,
    replacer: Replacer | None,
) -> PicturesPair:
    asked = int(rng.integers(2))
    # The other picture shows the incorrect answer, so that a model has to tell the pictures apart.
    clean = tuple(scene.with_value("color", colors[0] if i == asked else colors[1]) for i, scene in enumerate(scenes))
    corrupt = tuple(scene.with_value("color", colors[1]) for scene in scenes)
    ordered = colors if correct_first else colors[::-1]

    def ask(options: Sequence[str]) -> str:
        return f"Is the {noun} in the {ORDINALS[asked]} picture {options[0]} or {options[1]}?"

    prompts = draw_prompts(rng, ask, OPTIONS["rendered_states"]["color"], ordered, replacer)
    return PicturesPair(
        (clean[0], clean[1]), (corrupt[0], corrupt[1]), "color", colors, correct_first, prompts[0], prompts[1], noun
    )


def _same(
    rng: np.random.Generator, scenes: Scenes, noun: str, colors: tuple[str, str], correct_first: bool
) -> PicturesPair:
    changed = int(rng.integers(2))
    alike = _colored(scenes, colors[0], colors[0])
    unlike = _colored(scenes, *(colors[1] if i == changed else colors[0] for i in (0, 1)))
    clean, corrupt = (alike, unlike) if correct_first else (unlike, alike)
    options = ("yes", "no") if correct_first else ("no", "yes")
    prompt = f"Is the {noun} of the same color in both pictures, yes or no?"
    return PicturesPair(clean, corrupt, "same", options, correct_first, prompt, prompt, noun)


def load(n: int, seed: int, split: str = "test", model: VLM | CountTokens | None = None) -> pd.DataFrame:
    """Render n minimal pairs of questions about two pictures and return their table.

    The first n pairs of a split and seed are always the same, to the byte; what is on disk already is not rendered
    again.

    Args:
        n: number of pairs; categories and option orders are balanced as far as n divides
        seed: another seed gives other pairs
        split: "train" (only combinations that occur in training), "validation" or "test"
        model: the model in use, or a function from a prompt to its number of tokens: words of as many tokens replace
            the options

    Returns:
        the columns of a pairs table, with lists of images and masks, noun, split and seen_combination

    Raises:
        VlmtraceError: unknown split
    """
    folder = RAW / PICTURES / f"{one_of(split, SPLITS, 'split')}-seed{seed}" / f"v{VERSION}"
    replacer = replacer_for(model)
    return pd.DataFrame([_row(split, seed, i, folder, replacer) for i in progress(range(n), f"rendering {PICTURES}")])


def _row(split: str, seed: int, index: int, folder: Path, replacer: Replacer | None) -> dict[str, object]:
    pair = sample(seed, index, split, replacer)
    parts = {"object_mask": 1, "distractor_mask": 2}
    clean: list[str] = []
    corrupt: list[str] = []
    masks: dict[str, list[str]] = {name: [] for name in parts}
    for i, (before, after) in enumerate(zip(pair.clean, pair.corrupt, strict=True)):
        stem = f"{index:05d}-picture{i + 1}"
        paths = {name: folder / f"{stem}-{name}.png" for name in ("clean_image", "corrupt_image", *parts)}
        if before == after:
            paths["corrupt_image"] = paths["clean_image"]
        if not all(path.is_file() for path in paths.values()):
            rendered = before.render()
            drawn = {paths["corrupt_image"]: after.render().pixels, paths["clean_image"]: rendered.pixels}
            write_images(drawn | {paths[name]: rendered.mask(part) for name, part in parts.items()})
        clean.append(relative(paths["clean_image"]))
        corrupt.append(relative(paths["corrupt_image"]))
        for name in parts:
            masks[name].append(relative(paths[name]))
    things = [scene.things[0] for scene in (*pair.clean, *pair.corrupt)]
    return {
        "sample_id": f"{PICTURES}-{split}-{seed}-{index:05d}",
        "task": PICTURES,
        "category": pair.category,
        "clean_image": clean[pair.changed],
        "corrupt_image": corrupt[pair.changed],
        "clean_prompt": pair.clean_prompt,
        "corrupt_prompt": pair.corrupt_prompt,
        "correct_answer": pair.options[0],
        "incorrect_answer": pair.options[1],
        "correct_first": pair.correct_first,
        "clean_object_mask": masks["object_mask"][pair.changed],
        "clean_distractor_mask": masks["distractor_mask"][pair.changed],
        "noun": pair.noun,
        "split": split,
        "seen_combination": all(thing.is_seen() for thing in things),
        "clean_images": clean,
        "corrupt_images": corrupt,
        "clean_object_masks": masks["object_mask"],
        "clean_distractor_masks": masks["distractor_mask"],
    }
