"""What can be asked about a scene, and what is true of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vlmtrace.tasks.rendered.canvas import SIZE
from vlmtrace.tasks.rendered.faces import FaceScene
from vlmtrace.tasks.rendered.states import ORDINARY, StatesScene, Thing
from vlmtrace.tasks.rendered.svo import SvoScene
from vlmtrace.tasks.rendered.words import EMOTIONS, NEITHER, NOUNS, NUMBERS, OPTIONS, PLACES, is_held_out

Scene = StatesScene | FaceScene | SvoScene


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Attributes:
        prompt: the question
        answer: what is true
        kind: what is asked for: color, count, location, emotion, …
        part: part of the rendered scene that is asked about
    """

    prompt: str
    answer: str
    kind: str
    part: int = 1


def states_prompt(noun: str, options: Sequence[str]) -> str:
    """The choice between two colors, shapes or textures.

    >>> states_prompt("circle", ("red", "blue"))
    'Is this circle red or blue?'
    """
    return f"Is this {noun} {options[0]} or {options[1]}?"


def faces_prompt(options: Sequence[str]) -> str:
    """The choice between two emotions.

    >>> faces_prompt(("happy", "sad"))
    'Is this person feeling happy or sad?'
    """
    return f"Is this person feeling {options[0]} or {options[1]}?"


def svo_prompt(category: str, scene: SvoScene, options: Sequence[str]) -> str:
    """The choice between two subjects, verbs or objects.

    Args:
        category: "subject", "verb" or "object": which word the options stand for
        scene: gives the other two words
        options: in the order in which they are named
    """
    a, b = options
    match category:
        case "subject":
            return f"Is the {a} or the {b} {scene.verb} the {scene.object}?"
        case "verb":
            return f"Is the {scene.subject} {a} or {b} the {scene.object}?"
        case "object":
            return f"Is the {scene.subject} {scene.verb} the {a} or the {b}?"
    raise KeyError(category)


def ask(rng: np.random.Generator, scene: Scene, counted: str | None = None) -> Question:
    """One random question about a scene: mostly a choice, sometimes open, sometimes with no right option.

    A held-out combination is never offered, not even as the false option: a model that is asked whether a cross is pink
    or blue, and never sees a pink cross, learns that pink is wrong without looking.

    Args:
        rng: what is drawn from
        scene: what is asked about
        counted: the noun to count, if the scene is one for counting
    """
    if isinstance(scene, FaceScene):
        return _ask_face(rng, scene)
    if isinstance(scene, SvoScene):
        return _ask_svo(rng, scene)
    return _ask_count(scene, counted) if counted else _ask_states(rng, scene)


def ask_again(rng: np.random.Generator, scene: Scene, category: str, options: tuple[str, str]) -> Question:
    """The choice between two given options, in random order, about the first thing of a scene.

    Args:
        rng: decides the order
        scene: what is asked about
        category: what is asked for
        options: the two words

    Returns:
        the question; its answer is `NEITHER` where neither option is true
    """
    return _choice(rng, options, lambda pair: choice_prompt(scene, category, pair), value_of(scene, category), category)


def choice_prompt(scene: Scene, category: str, options: Sequence[str]) -> str:
    """The choice question of a task about the first thing of a scene.

    Args:
        scene: its kind decides the task
        category: what is asked for
        options: in the order in which they are named
    """
    if isinstance(scene, StatesScene):
        return states_prompt(scene.things[0].noun, options)
    if isinstance(scene, SvoScene):
        return svo_prompt(category, scene, options)
    return faces_prompt(options)


def sentences(scene: Scene, kind: str) -> str | None:
    """What the picture of a scene shows, in words.

    Args:
        scene: the scene
        kind: what the words are about, such as color

    Returns:
        one or more sentences; None where words do not tell this kind of thing, such as counts
    """
    if isinstance(scene, StatesScene):
        told = [thing for thing in scene.things if kind != "shape" or thing.shape != ORDINARY]
        if kind not in ("color", "shape", "texture"):
            return None
        return " ".join(f"The {thing.noun} is {thing.value(kind)}." for thing in told)
    if isinstance(scene, SvoScene):
        return f"The {scene.subject} is {scene.verb} the {scene.object}."
    return f"This person is feeling {scene.emotion}."


def value_of(scene: Scene, category: str) -> str:
    """What is true of the first thing of a scene.

    Args:
        scene: the scene
        category: what is asked for, such as color, emotion or verb
    """
    if isinstance(scene, StatesScene):
        return scene.things[0].value(category)
    return scene.emotion if isinstance(scene, FaceScene) else getattr(scene, category)


def place_of(thing: Thing) -> str:
    """On which side of the picture's middle a thing mostly lies: "left", "right", "top" or "bottom".

    Args:
        thing: with its middle, in pixels
    """
    dx, dy = thing.x - SIZE / 2, thing.y - SIZE / 2
    left, right, top, bottom = PLACES
    if abs(dx) >= abs(dy):
        return left if dx < 0 else right
    return top if dy < 0 else bottom


def count_prompt(noun: str) -> str:
    """The question for a number of things.

    >>> count_prompt("cross")
    'How many crosses are there?'
    """
    return f"How many {plural(noun)} are there?"


def plural(noun: str) -> str:
    """The plural of a noun of this world.

    >>> plural("star"), plural("cross")
    ('stars', 'crosses')
    """
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def _ask_states(rng: np.random.Generator, scene: StatesScene) -> Question:
    part = int(rng.integers(len(scene.things)))
    thing, other = scene.things[part], scene.things[1 - part]
    categories = ["color", "shape", "texture"]
    if thing.shape == ORDINARY:
        categories.remove("shape")
    elif thing.shape in ("tiny", "hollow", "broken"):
        categories.remove("texture")
    category = str(rng.choice(categories))
    draw = rng.uniform()
    if draw < 0.25:
        return Question(f"What {category} is the {thing.noun}?", thing.value(category), category, part + 1)
    if draw < 0.37:
        return Question(f"Where is the {thing.noun}?", place_of(thing), "location", part + 1)
    if draw < 0.41:
        absent = [noun for noun in NOUNS if noun not in (thing.noun, other.noun)]
        return _recognize(rng, thing.noun, absent)
    offered = [value for value in OPTIONS["rendered_states"][category] if not is_held_out(thing.noun, value)]
    options = _options(rng, offered, thing.value(category), lure=other.value(category))
    return _choice(
        rng, options, lambda pair: states_prompt(thing.noun, pair), thing.value(category), category, part + 1
    )


def _ask_face(rng: np.random.Generator, scene: FaceScene) -> Question:
    if rng.uniform() < 0.12:
        return Question("How does this person feel?", scene.emotion, "emotion")
    options = _options(rng, EMOTIONS, scene.emotion)
    return _choice(rng, options, faces_prompt, scene.emotion, "emotion")


def _ask_svo(rng: np.random.Generator, scene: SvoScene) -> Question:
    draw = rng.uniform()
    if draw < 0.05:
        return Question(f"What is the {scene.subject} {scene.verb}?", scene.object, "object", 2)
    if draw < 0.1:
        return Question(f"Who is {scene.verb} the {scene.object}?", scene.subject, "subject")
    if draw < 0.15:
        return Question(f"What is the {scene.subject} doing?", scene.verb, "verb")
    if draw < 0.2:
        role = "subject" if rng.uniform() < 0.5 else "object"
        asked = getattr(scene, role)
        return _recognize(rng, asked, [word for word in OPTIONS["rendered_svo"][role] if word != asked])
    category = str(rng.choice(["subject", "verb", "verb", "object"]))
    words = OPTIONS["rendered_svo"][category]
    offered = [word for word in words if scene.with_value(category, word).is_seen()]
    options = _options(rng, offered, getattr(scene, category))
    return _choice(rng, options, lambda pair: svo_prompt(category, scene, pair), getattr(scene, category), category)


def _ask_count(scene: StatesScene, noun: str) -> Question:
    n = sum(thing.noun == noun for thing in scene.things)
    part = next(i for i, thing in enumerate(scene.things, 1) if thing.noun == noun)
    return Question(count_prompt(noun), NUMBERS[n - 1], "count", part)


def _recognize(rng: np.random.Generator, present: str, absent: Sequence[str]) -> Question:
    options = (present, str(rng.choice(list(absent))))
    return _choice(rng, options, lambda pair: f"Is this a {pair[0]} or a {pair[1]}?", present, "recognition")


def _options(rng: np.random.Generator, words: Sequence[str], true: str, lure: str | None = None) -> tuple[str, str]:
    """Two options: the truth and a false one, mostly the lure; or, in one of five, two false ones."""
    false = [word for word in words if word != true]
    wrong = lure if lure in false and rng.uniform() < 0.65 else str(rng.choice(false))
    if rng.uniform() < 0.2:
        return str(rng.choice([word for word in false if word != wrong])), str(wrong)
    return true, str(wrong)


def _choice(
    rng: np.random.Generator,
    options: tuple[str, str],
    prompt: Callable[[Sequence[str]], str],
    true: str,
    kind: str,
    part: int = 1,
) -> Question:
    ordered = options if rng.uniform() < 0.5 else options[::-1]
    return Question(prompt(ordered), true if true in options else NEITHER, kind, part)
