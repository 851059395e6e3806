"""Minimal pairs of the rendered world: drawn from a seed, and written to disk as a table with images and masks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from vlmtrace.core.errors import one_of
from vlmtrace.core.files import write_atomically
from vlmtrace.core.paths import RAW, relative
from vlmtrace.core.progress import progress
from vlmtrace.inputs.words import find_word
from vlmtrace.tasks.building.token_replacement import CountTokens, Replacer
from vlmtrace.tasks.rendered import faces, states, svo
from vlmtrace.tasks.rendered.options import draw_options, draw_prompts, options_for, replacer_for
from vlmtrace.tasks.rendered.questions import Question, Scene, choice_prompt, count_prompt, place_of, plural, sentences
from vlmtrace.tasks.rendered.words import NUMBERS, OPTIONS, TASKS, is_held_out

if TYPE_CHECKING:
    from vlmtrace.models import VLM

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
        corrupt_prompt: the question with both options replaced; the same where no words fit the tokenizer in use
        object_parts: parts of the rendered scene that show what is asked about
        distractor_parts: parts that show the distractor
        roles: the prompt's words by role (noun; subject, verb, object), without the role that the options take
        seen_combination: whether both scenes show only combinations that occur in training
        of_tokenizer: whether the options are others than those of the bundled tokenizer, which cannot be replaced here
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
    of_tokenizer: bool = False


@dataclass(frozen=True)
class Drawing:
    """How a pair is to be drawn.

    Attributes:
        correct_first: whether the correct option stands first in the prompt
        held_out: whether combinations may be shown that are kept out of training
        replacer: counts tokens for the model in use; None: those of the bundled tokenizer count
    """

    correct_first: bool
    held_out: bool
    replacer: Replacer | None


def sample(task: str, seed: int, index: int, split: str = "test", replacer: Replacer | None = None) -> Pair:
    """Pair `index` of an endless sequence; categories and option orders take turns.

    Pairs of the train split show training combinations only; the others also show held-out ones, at their natural rate.

    Args:
        task: one of TASKS
        seed: another seed gives another sequence
        index: number in the sequence, from 0
        split: "train", "validation" or "test"
        replacer: counts tokens for the model in use; None: those of the bundled tokenizer count

    Raises:
        VlmtraceError: unknown task or split
    """
    categories = tuple(OPTIONS[one_of(task, TASKS, "task")])
    key = [TASKS.index(task), SPLITS.index(one_of(split, SPLITS, "split")), seed, index]
    rng = np.random.default_rng(key)
    category, correct_first = categories[index // 2 % len(categories)], index % 2 == 0
    drawn = draw_options(rng, task, category)
    # From a generator of its own, so that the scene depends on the options alone, whatever the tokenizer.
    options = options_for(replacer, np.random.default_rng([*key, 1]), task, category, drawn)
    build = {"rendered_states": _states, "rendered_faces": _faces, "rendered_svo": _svo}[task]
    pair = build(rng, category, options, Drawing(correct_first, split != "train", replacer))
    return replace(pair, of_tokenizer=options != drawn)


def _prompts(
    rng: np.random.Generator,
    scene: Scene,
    category: str,
    choices: tuple[str, ...],
    options: tuple[str, str],
    drawing: Drawing,
) -> tuple[str, str]:
    """The clean prompt, and the same with both options replaced."""
    ordered = options if drawing.correct_first else options[::-1]
    return draw_prompts(rng, lambda words: choice_prompt(scene, category, words), choices, ordered, drawing.replacer)


def _states(rng: np.random.Generator, category: str, options: tuple[str, str], drawing: Drawing) -> Pair:
    values = OPTIONS["rendered_states"][category]
    distractor_value = options[1] if rng.uniform() < 0.6 else str(rng.choice(values))
    clean = states.sample_scene(rng, category, options, distractor_value, drawing.held_out)
    noun = clean.things[0].noun
    prompts = _prompts(rng, clean, category, values, options, drawing)
    corrupt = clean.with_value(category, options[1])
    seen = not any(is_held_out(noun, option) for option in options)
    return Pair(clean, corrupt, category, options, drawing.correct_first, *prompts, (1,), (2,), {"noun": noun}, seen)


def _faces(rng: np.random.Generator, category: str, options: tuple[str, str], drawing: Drawing) -> Pair:
    clean = faces.sample_scene(rng, options, drawing.held_out)
    corrupt = clean.with_value(category, options[1])
    prompts = _prompts(rng, clean, category, OPTIONS["rendered_faces"][category], options, drawing)
    seen = clean.is_seen() and corrupt.is_seen()
    parts = (faces.PERSON,), (faces.DISTRACTOR,)
    return Pair(clean, corrupt, category, options, drawing.correct_first, *prompts, *parts, {"noun": "person"}, seen)


def _svo(rng: np.random.Generator, category: str, options: tuple[str, str], drawing: Drawing) -> Pair:
    clean = svo.sample_scene(rng, category, options, drawing.held_out)
    corrupt = clean.with_value(category, options[1])
    prompts = _prompts(rng, clean, category, OPTIONS["rendered_svo"][category], options, drawing)
    roles = {role: getattr(clean, role) for role in ("subject", "verb", "object") if role != category}
    # A verb is seen in the actor's pose and in where the object is.
    asked = {"subject": (svo.ACTOR,), "verb": (svo.ACTOR, svo.OBJECT), "object": (svo.OBJECT,)}[category]
    seen = clean.is_seen() and corrupt.is_seen()
    return Pair(clean, corrupt, category, options, drawing.correct_first, *prompts, asked, (svo.SCENE,), roles, seen)


def load(task: str, n: int, seed: int, split: str = "test", model: VLM | CountTokens | None = None) -> pd.DataFrame:
    """Render n minimal pairs and return their table.

    The first n pairs of a task, split, seed and tokenizer are always the same, to the byte; what is on disk already is
    not rendered again. Under a tokenizer that splits words as the bundled one does, or none, they are the same; under
    another one corrupt prompts have other words, and pairs whose options could not be replaced have other options.
    A pair for which no words fit is one of images alone: its corrupt prompt is the clean one.

    Args:
        task: one of TASKS
        n: number of pairs; categories and option orders are balanced as far as n divides
        seed: another seed gives other pairs
        split: "train" (only combinations that occur in training), "validation" or "test"
        model: the model in use, or a function from a prompt to its number of tokens

    Returns:
        the columns of a pairs table, masks, role columns (noun; subject, verb, object), split, seen_combination

    Raises:
        VlmtraceError: unknown task or split
    """
    one_of(task, TASKS, "task")
    folder = RAW / task / f"{one_of(split, SPLITS, 'split')}-seed{seed}" / f"v{VERSION}"
    replacer = replacer_for(model)
    rows = [_row(task, split, seed, index, folder, replacer) for index in progress(range(n), f"rendering {task}")]
    return pd.DataFrame(rows)


def _row(task: str, split: str, seed: int, index: int, folder: Path, replacer: Replacer | None) -> dict[str, object]:
    pair = sample(task, seed, index, split, replacer)
    # Of other options the scene is another one, in files and under a name of its own.
    number = "-".join([f"{index:05d}", *(pair.options if pair.of_tokenizer else ())])
    images = ("clean_image", "corrupt_image", "clean_object_mask", "clean_distractor_mask")
    paths = {name: folder / f"{number}-{name}.png" for name in images}
    if not all(path.is_file() for path in paths.values()):
        clean, corrupt = pair.clean.render(), pair.corrupt.render()
        masks = clean.mask(*pair.object_parts), clean.mask(*pair.distractor_parts)
        write_images(dict(zip(paths.values(), (clean.pixels, corrupt.pixels, *masks), strict=True)))
    roles = ("noun",) if task != "rendered_svo" else ("subject", "verb", "object")
    return {
        "sample_id": f"{task}-{split}-{seed}-{number}",
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
