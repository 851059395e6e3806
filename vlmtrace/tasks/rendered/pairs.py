"""Minimal pairs of the rendered world: drawn from a seed, and written to disk as a table with images and masks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from vlmtrace.core.errors import one_of
from vlmtrace.core.files import write_atomically
from vlmtrace.core.paths import RAW, relative
from vlmtrace.core.progress import progress
from vlmtrace.inputs.words import find_word
from vlmtrace.tasks.rendered import faces, states, svo
from vlmtrace.tasks.rendered.questions import Question, Scene, choice_prompt, count_prompt, place_of, plural, sentences
from vlmtrace.tasks.rendered.words import NUMBERS, OPTIONS, TASKS, is_held_out, replacements

SPLITS = ("train", "validation", "test")
#: The data set of questions without options, and their kinds.
OPEN = "rendered_open"
OPEN_KINDS = ("color", "count", "location")

#: Raise it when a change of the drawing code changes pictures, so that stale ones are not used.
VERSION = 1


@dataclass(frozen=True)
class Pair:
    """One minimal pair before it is rendered.

    Attributes:
        clean: the scene that shows the correct answer
        corrupt: the same with the one thing changed that is asked for
        category: what is asked for; of faces, the correct emotion
        options: the correct and the incorrect answer
        correct_first: whether the correct option stands first in the prompt
        clean_prompt: the question
        corrupt_prompt: the question with both options replaced
        object_parts: parts of the rendered scene that show what is asked about
        distractor_parts: parts that show the distractor
        roles: the prompt's words by role (noun; subject, verb, object), without the role that the options take
        seen_combination: whether both scenes show only combinations that occur in training
    """

    clean: Scene
    corrupt: Scene
    category: str
    options: tuple[str, str]
    correct_first: bool
    clean_prompt: str
    corrupt_prompt: str
    object_parts: tuple[int, ...]
    distractor_parts: tuple[int, ...]
    roles: dict[str, str]
    seen_combination: bool


def sample(task: str, seed: int, index: int, split: str = "test") -> Pair:
    """Pair `index` of an endless sequence; categories and option orders take turns.

    Pairs of the train split show training combinations only; the others also show held-out ones, at their natural rate.

    Args:
        task: one of TASKS
        seed: another seed gives another sequence
        index: number in the sequence, from 0
        split: "train", "validation" or "test"

    Raises:
        VlmtraceError: unknown task or split
    """
    categories = tuple(OPTIONS[one_of(task, TASKS, "task")])
    rng = np.random.default_rng([TASKS.index(task), SPLITS.index(one_of(split, SPLITS, "split")), seed, index])
    category, correct_first = categories[index // 2 % len(categories)], index % 2 == 0
    options = draw_options(rng, task, category)
    build = {"rendered_states": _states, "rendered_faces": _faces, "rendered_svo": _svo}[task]
    return build(rng, category, options, correct_first, held_out=split != "train")


@cache
def _replaceable(options: tuple[str, ...]) -> list[tuple[str, str]]:
    """Ordered pairs of options that token replacement can corrupt, and whose first tokens differ."""
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


def _prompts(
    rng: np.random.Generator,
    scene: Scene,
    category: str,
    choices: tuple[str, ...],
    options: tuple[str, str],
    correct_first: bool,
) -> tuple[str, str]:
    """The clean prompt, and the same with both options replaced."""
    ordered = options if correct_first else options[::-1]
    found = replacements(choices, ordered)
    replaced = found[rng.integers(len(found))]
    return choice_prompt(scene, category, ordered), choice_prompt(scene, category, replaced)


def _states(
    rng: np.random.Generator, category: str, options: tuple[str, str], correct_first: bool, held_out: bool
) -> Pair:
    values = OPTIONS["rendered_states"][category]
    distractor_value = options[1] if rng.uniform() < 0.6 else str(rng.choice(values))
    clean = states.sample_scene(rng, category, options, distractor_value, held_out)
    noun = clean.things[0].noun
    prompts = _prompts(rng, clean, category, values, options, correct_first)
    corrupt = clean.with_value(category, options[1])
    seen = not any(is_held_out(noun, option) for option in options)
    return Pair(clean, corrupt, category, options, correct_first, *prompts, (1,), (2,), {"noun": noun}, seen)


def _faces(
    rng: np.random.Generator, category: str, options: tuple[str, str], correct_first: bool, held_out: bool
) -> Pair:
    clean = faces.sample_scene(rng, options, held_out)
    corrupt = clean.with_value(category, options[1])
    prompts = _prompts(rng, clean, category, OPTIONS["rendered_faces"][category], options, correct_first)
    seen = clean.is_seen() and corrupt.is_seen()
    parts = (faces.PERSON,), (faces.DISTRACTOR,)
    return Pair(clean, corrupt, category, options, correct_first, *prompts, *parts, {"noun": "person"}, seen)


def _svo(
    rng: np.random.Generator, category: str, options: tuple[str, str], correct_first: bool, held_out: bool
) -> Pair:
    clean = svo.sample_scene(rng, category, options, held_out)
    corrupt = clean.with_value(category, options[1])
    prompts = _prompts(rng, clean, category, OPTIONS["rendered_svo"][category], options, correct_first)
    roles = {role: getattr(clean, role) for role in ("subject", "verb", "object") if role != category}
    # A verb is seen in the actor's pose and in where the object is.
    asked = {"subject": (svo.ACTOR,), "verb": (svo.ACTOR, svo.OBJECT), "object": (svo.OBJECT,)}[category]
    seen = clean.is_seen() and corrupt.is_seen()
    return Pair(clean, corrupt, category, options, correct_first, *prompts, asked, (svo.SCENE,), roles, seen)


def load(task: str, n: int, seed: int, split: str = "test") -> pd.DataFrame:
    """Render n minimal pairs and return their table.

    The first n pairs of a task, split and seed are always the same, to the byte; what is on disk already is not
    rendered again.

    Args:
        task: one of TASKS
        n: number of pairs; categories and option orders are balanced as far as n divides
        seed: another seed gives other pairs
        split: "train" (only combinations that occur in training), "validation" or "test"

    Returns:
        the columns of a pairs table, masks, role columns (noun; subject, verb, object), split, seen_combination

    Raises:
        VlmtraceError: unknown task or split
    """
    one_of(task, TASKS, "task")
    folder = RAW / task / f"{one_of(split, SPLITS, 'split')}-seed{seed}" / f"v{VERSION}"
    rows = [_row(task, split, seed, index, folder) for index in progress(range(n), f"rendering {task}")]
    return pd.DataFrame(rows)


def _row(task: str, split: str, seed: int, index: int, folder: Path) -> dict[str, object]:
    pair = sample(task, seed, index, split)
    images = ("clean_image", "corrupt_image", "clean_object_mask", "clean_distractor_mask")
    paths = {name: folder / f"{index:05d}-{name}.png" for name in images}
    if not all(path.is_file() for path in paths.values()):
        clean, corrupt = pair.clean.render(), pair.corrupt.render()
        masks = clean.mask(*pair.object_parts), clean.mask(*pair.distractor_parts)
        write_images(dict(zip(paths.values(), (clean.pixels, corrupt.pixels, *masks), strict=True)))
    roles = ("noun",) if task != "rendered_svo" else ("subject", "verb", "object")
    return {
        "sample_id": f"{task}-{split}-{seed}-{index:05d}",
        "task": task,
        "category": pair.category,
        "clean_image": relative(paths["clean_image"]),
        "corrupt_image": relative(paths["corrupt_image"]),
        "clean_prompt": pair.clean_prompt,
        "corrupt_prompt": pair.corrupt_prompt,
        "correct_answer": pair.options[0],
        "incorrect_answer": pair.options[1],
        "correct_first": pair.correct_first,
        "clean_object_mask": relative(paths["clean_object_mask"]),
        "clean_distractor_mask": relative(paths["clean_distractor_mask"]),
        **{role: pair.roles.get(role) for role in roles},
        "split": split,
        "seen_combination": pair.seen_combination,
    }


def open_questions(n: int, seed: int, kind: str | None = None) -> pd.DataFrame:
    """Render n scenes, each with a question without options.

    Args:
        n: number of questions
        seed: another seed gives other scenes
        kind: only questions of this category; None: "color", "count" and "location" take turns

    Returns:
        one row per question: sample_id, task, category, image, prompt, answer, noun (as it stands in the prompt),
        object_mask (of the thing asked about; of all that are to be counted), sentences (that tell what the image
        shows; None where words cannot)

    Raises:
        VlmtraceError: unknown kind
    """
    folder = RAW / OPEN / f"seed{seed}" / f"v{VERSION}"
    step, first = (1, 0) if kind is None else (len(OPEN_KINDS), OPEN_KINDS.index(one_of(kind, OPEN_KINDS, "kind")))
    chosen = range(first, first + step * n, step)
    return pd.DataFrame([_open_row(seed, index, folder) for index in progress(chosen, "rendering open questions")])


def sample_open(seed: int, index: int) -> tuple[states.StatesScene, Question]:
    """Scene and question `index` of an endless sequence of questions without options; the kinds take turns.

    Args:
        seed: another seed gives another sequence
        index: number in the sequence, from 0
    """
    kind = OPEN_KINDS[index % len(OPEN_KINDS)]
    # The fourth entry keeps these scenes apart from those of the pairs.
    rng = np.random.default_rng([seed, index, SPLITS.index("test"), len(TASKS)])
    if kind == "count":
        scene, noun, n = states.sample_count_scene(rng)
        part = next(part for part, thing in enumerate(scene.things, 1) if thing.noun == noun)
        return scene, Question(count_prompt(noun), NUMBERS[n - 1], kind, part)
    colors = OPTIONS["rendered_states"]["color"]
    first, second, shown = (str(color) for color in rng.choice(colors, 3, replace=False))
    scene = states.sample_scene(rng, "color", (first, second), shown)
    thing = scene.things[0]
    if kind == "color":
        return scene, Question(f"What color is the {thing.noun}?", first, kind)
    return scene, Question(f"Where is the {thing.noun}?", place_of(thing), kind)


def _open_row(seed: int, index: int, folder: Path) -> dict[str, object]:
    scene, question = sample_open(seed, index)
    noun = scene.things[question.part - 1].noun
    image, mask = folder / f"{index:05d}-image.png", folder / f"{index:05d}-object_mask.png"
    if not (image.is_file() and mask.is_file()):
        rendered = scene.render()
        asked = [part for part, thing in enumerate(scene.things, 1) if thing.noun == noun]
        write_images({image: rendered.pixels, mask: rendered.mask(*asked)})
    return {
        "sample_id": f"{OPEN}-{seed}-{index:05d}",
        "task": OPEN,
        "category": question.kind,
        "image": relative(image),
        "prompt": question.prompt,
        "answer": question.answer,
        "noun": next(word for word in (plural(noun), noun) if find_word(question.prompt, word)),
        "object_mask": relative(mask),
        "sentences": sentences(scene, question.kind),
    }


def write_images(images: dict[Path, np.ndarray]) -> None:
    """Write pictures and masks as PNGs, each whole or not at all.

    Args:
        images: pixels by path
    """
    for path, pixels in images.items():
        with write_atomically(path) as temporary:
            Image.fromarray(pixels).save(temporary)
