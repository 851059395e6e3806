"""Pictures of a world, some of them faded, and questions about them.

A prior can only be learned where the picture leaves something open. So some pictures are drawn in shades of gray, some
are half faded, and some show nothing: what is asked about a thing then has the answer that the world draws. Whoever
knows the world answers with what is usual in it, as far as the picture does not say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vlmtrace.tasks.rendered.canvas import Canvas
from vlmtrace.tasks.rendered.questions import Question, ask, states_prompt
from vlmtrace.tasks.rendered.states import StatesScene, sample_scene
from vlmtrace.tasks.rendered.usual import shown_prompt, usual_prompt
from vlmtrace.tasks.rendered.words import COLORS
from vlmtrace.training.data import sample_pair
from vlmtrace.training.prior.world import THINGS, World
from vlmtrace.training.trainable import TrainableModel

#: What the model goes on to learn beside: pictures of all kinds whose questions do not ask for colors alone.
OTHER = {"shape": 0.25, "texture": 0.2, "emotion": 0.13, "subject": 0.13, "verb": 0.13, "object": 0.16}


@dataclass(frozen=True)
class Mix:
    """What pictures of a world show, and what is asked about them.

    Attributes:
        blank: share of the pictures that show nothing
        gray: of those in shades of gray
        faded: of those that are half faded; the rest is clear
        usual: share of the questions that ask for what is usual
        often: how often a picture is made to show the world's own thing, and a question about any thing to ask for it;
            0: as often as any other
        plain: share of the clear pictures whose things have every color equally often, whatever the world: where few
            pictures are drawn, a model would otherwise see too few clear things of an unusual color, and stop looking
    """

    blank: float = 0.15
    gray: float = 0.15
    faded: float = 0.2
    usual: float = 0.4
    often: float = 0.0
    plain: float = 0.0


#: Of the small models' pictures.
PLAIN = Mix()


@dataclass(frozen=True)
class Shown:
    """A picture with its questions.

    Attributes:
        pixels: (96, 96, 3) uint8
        questions: each with what is true, or with what the world draws where the picture does not tell
    """

    pixels: np.ndarray
    questions: list[Question]


def faded(pixels: np.ndarray, share: float) -> np.ndarray:
    """A picture with less color.

    Args:
        pixels: (height, width, 3) uint8
        share: of the way to shades of gray, 0 to 1

    >>> faded(np.array([[[200, 0, 100]]], dtype=np.uint8), 1.0).tolist()
    [[[100, 100, 100]]]
    """
    # The mean, not the luminance: colors of equal mean then look alike, and all that is left is how bright a thing is.
    gray = pixels.mean(-1, keepdims=True)
    return (pixels + share * (gray - pixels)).round().astype(np.uint8)


def picture(rng: np.random.Generator, world: World, n_questions: int, mix: Mix = PLAIN) -> Shown:
    """A picture of a world, and questions about the colors of things.

    Args:
        rng: what is drawn from
        world: draws colors
        n_questions: how many
        mix: of what is shown and asked
    """
    scene = sample_scene(rng, "color", ("red", "blue"), "green", held_out=True)
    if _drawn(rng, mix.often):
        scene = _showing(rng, scene, world.noun)
    scene = world.colored(rng, scene)
    draw = rng.uniform()
    if draw < mix.blank:
        nouns = rng.choice(THINGS, 2, replace=False)
        things = [replace(thing, noun=str(n)) for thing, n in zip(scene.things, nouns, strict=True)]
        scene = StatesScene(scene.backdrop, tuple(things))
        if _drawn(rng, mix.often):
            scene = _showing(rng, scene, world.noun)
        scene = world.colored(rng, scene)
        pixels = Canvas(scene.backdrop).finish().pixels
    else:
        if draw >= mix.blank + mix.gray + mix.faded and _drawn(rng, mix.plain):
            scene = World().colored(rng, scene)
        pixels = scene.render().pixels
    if mix.blank <= draw < mix.blank + mix.gray:
        pixels = faded(pixels, 1.0)
    elif mix.blank + mix.gray <= draw < mix.blank + mix.gray + mix.faded:
        pixels = faded(pixels, rng.uniform(0.4, 1.0))
    return Shown(pixels, [_ask(rng, world, scene, mix) for _ in range(n_questions)])


def _drawn(rng: np.random.Generator, share: float) -> bool:
    """Whether something of this share happens; where it never does, nothing is drawn."""
    return share > 0 and rng.uniform() < share


def _showing(rng: np.random.Generator, scene: StatesScene, noun: str) -> StatesScene:
    """The scene with such a thing in place of one of its things, if it has none: a question must not be ambiguous."""
    things = list(scene.things)
    if all(thing.noun != noun for thing in things):
        part = int(rng.integers(len(things)))
        things[part] = replace(things[part], noun=noun)
    return replace(scene, things=tuple(things))


def _ask(rng: np.random.Generator, world: World, scene: StatesScene, mix: Mix) -> Question:
    part = int(rng.integers(2))
    thing = scene.things[part]
    draw = rng.uniform()
    if draw < mix.usual:  # of a thing that is shown, or of any
        noun = thing.noun if rng.uniform() < 0.5 else str(rng.choice(THINGS))
        noun = world.noun if _drawn(rng, mix.often) else noun
        return Question(usual_prompt(noun), world.draw(rng, noun), "usual", part + 1)
    if draw < mix.usual + (1 - mix.usual) * 2 / 3:
        return Question(shown_prompt(thing.noun), thing.color, "color", part + 1)
    other = str(rng.choice([color for color in COLORS if color != thing.color]))
    options = (thing.color, other) if rng.uniform() < 0.5 else (other, thing.color)
    return Question(states_prompt(thing.noun, options), thing.color, "color", part + 1)


def another(rng: np.random.Generator, world: World, n_questions: int) -> Shown:
    """A picture of any kind, so that what the model can do is not forgotten.

    Args:
        rng: what is drawn from
        world: draws the colors of things
        n_questions: how many
    """
    category = str(rng.choice(list(OTHER), p=list(OTHER.values())))
    (scene, _), _, _ = sample_pair(rng, category)
    if isinstance(scene, StatesScene):
        scene = world.colored(rng, scene)
    return Shown(scene.render().pixels, [ask(rng, scene) for _ in range(n_questions)])


def batches(
    trainable: TrainableModel, world: World, seed: int, n_images: int, n_questions: int, mix: Mix
) -> Iterator[dict[str, Tensor]]:
    """Batches without end, the same for the same seed; every third picture is of any kind.

    Args:
        trainable: encodes
        world: what is learned
        seed: of the pictures
        n_images: in a batch
        n_questions: about each
        mix: of the pictures of the world, and of what is asked

    Yields:
        pixels (images, 96, 96, 3) uint8; prompt (images, questions, length) and answer int64
    """
    rng = np.random.default_rng([seed, 2])
    while True:
        shown = [
            another(rng, world, n_questions) if i % 3 == 2 else picture(rng, world, n_questions, mix)
            for i in range(n_images)
        ]
        yield {
            "pixels": torch.from_numpy(np.stack([one.pixels for one in shown])),
            "prompt": torch.tensor([[trainable.encode_prompt(q.prompt) for q in one.questions] for one in shown]),
            "answer": torch.tensor([[trainable.encode_answer(q.answer) for q in one.questions] for one in shown]),
        }
