"""An endless stream of freshly rendered minimal pairs with questions, and dense labels for the image patches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vlmtrace.tasks.rendered import faces, states, svo, words
from vlmtrace.tasks.rendered.canvas import SIZE, Rendered
from vlmtrace.tasks.rendered.pairs import sample
from vlmtrace.tasks.rendered.questions import Scene, ask, ask_again, sentences

if TYPE_CHECKING:
    from vlmtrace.training.trainable import TrainableModel


PATCH = 12
GRID = SIZE // PATCH
PROMPT_LENGTH, ANSWER_LENGTH = 16, 4
PADDING = 0
#: Seed of scenes that are described in sentences, far from those that accuracy is measured on.
TEXT_SEED = 1_000_000
IGNORED = -100

#: What the auxiliary heads predict at every image patch; the first entry of "thing" is the background.
PATCH_CLASSES: dict[str, tuple[str, ...]] = {
    "thing": (
        "background", *words.NOUNS, "person", *words.FACE_DISTRACTORS, *words.SUBJECTS, *words.OBJECTS, *words.SCENERY,
    ),
    "color": tuple(words.COLORS),
    "shape": (*words.SHAPES, states.ORDINARY),
    "texture": words.TEXTURES,
    "emotion": words.EMOTIONS,
    "verb": words.VERBS,
}  # fmt: skip


def kind_of(category: str) -> str:
    """What changes in a pair: its category, but of faces, whose categories are single emotions, "emotion".

    Args:
        category: of a pair

    >>> kind_of("happy"), kind_of("color")
    ('emotion', 'color')
    """
    return "emotion" if category in words.EMOTIONS else category


def sample_pair(rng: np.random.Generator, category: str) -> tuple[tuple[Scene, Scene], tuple[str, str], str | None]:
    """A clean and a corrupt scene of training combinations only, the two options, and the noun to count if any."""
    if category == "count":
        crowd, noun, _ = states.sample_count_scene(rng)
        return (crowd, crowd), ("", ""), noun
    if category == "emotion":
        options = _two(rng, words.EMOTIONS)
        scene: Scene = faces.sample_scene(rng, options)
    elif category in ("subject", "verb", "object"):
        options = _two(rng, words.OPTIONS["rendered_svo"][category])
        scene = svo.sample_scene(rng, category, options)
    else:
        values = words.OPTIONS["rendered_states"][category]
        options = _two(rng, values)
        shown = options[1] if rng.uniform() < 0.65 else str(rng.choice(values))
        scene = states.sample_scene(rng, category, options, shown)
    return (scene, scene.with_value(category, options[1])), options, None


def _two(rng: np.random.Generator, options: tuple[str, ...]) -> tuple[str, str]:
    first, second = rng.choice(len(options), 2, replace=False)
    return options[first], options[second]


class PairStream:
    """Batches of minimal pairs: both images of a pair are in the batch and are asked the same question.

    Yields dicts of tensors, for B = 2 n_pairs images with Q questions each:
        pixels (B, 96, 96, 3) uint8; prompt (B, Q, 16), answer (B, Q, 4) int64, padded with 0;
        patches (B, heads, 64) int64, IGNORED where a head has nothing to say
    """

    def __init__(self, trainable: TrainableModel, seed: int, rank: int, n_pairs: int, n_questions: int):
        """Choose what is drawn.

        Args:
            trainable: for whose tokenizer, and by whose mixture of categories
            seed: of the scenes
            rank: of the process; each has scenes of its own
            n_pairs: in a batch
            n_questions: about each image
        """
        self.trainable = trainable
        self.seed, self.rank, self.n_pairs, self.n_questions = seed, rank, n_pairs, n_questions

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Batches without end, the same for the same seed and rank."""
        rng = np.random.default_rng([self.seed, self.rank])
        while True:
            yield self._batch(rng)

    def _batch(self, rng: np.random.Generator) -> dict[str, Tensor]:
        pixels, patches, prompts, answers = [], [], [], []
        mixture = self.trainable.MIXTURE
        for category in rng.choice(list(mixture), self.n_pairs, p=list(mixture.values())):
            scenes, options, counted = sample_pair(rng, str(category))
            for scene in scenes:
                image = scene.render()
                pixels.append(image.pixels)
                patches.append(patch_labels(image, scene))
                questions = [ask(rng, scene, counted) for _ in range(self.n_questions - (not counted))]
                if not counted:
                    questions.append(ask_again(rng, scene, str(category), options))
                prompts.append([self.trainable.encode_prompt(q.prompt) for q in questions])
                answers.append([self.trainable.encode_answer(q.answer) for q in questions])
        return {
            "pixels": torch.from_numpy(np.stack(pixels)),
            "patches": torch.from_numpy(np.stack(patches)),
            "prompt": torch.tensor(prompts),
            "answer": torch.tensor(answers),
        }


def patch_labels(image: Rendered, scene: Scene) -> np.ndarray:
    """(heads, 64) int64: what the part that covers most of a patch is; a part must cover an eighth to count."""
    blocks = image.parts.reshape(GRID, PATCH, GRID, PATCH).transpose(0, 2, 1, 3).reshape(GRID * GRID, -1)
    labels = scene.labels()
    covered = np.stack([(blocks == part).sum(1) for part in labels])
    top = covered.argmax(0)
    is_part = covered.max(0) >= PATCH * PATCH / 8
    table = np.full((len(labels), len(PATCH_CLASSES)), IGNORED)
    for row, facts in enumerate(labels.values()):
        for head, value in facts.items():
            table[row, _HEADS.index(head)] = PATCH_CLASSES[head].index(value)
    background = np.where(np.arange(len(_HEADS)) == 0, 0, IGNORED)
    return np.where(is_part[:, None], table[top], background).T


_HEADS = list(PATCH_CLASSES)


def padded(ids: list[int], length: int, left: bool = False) -> list[int]:
    """Token ids filled up with PADDING."""
    if len(ids) > length:
        raise ValueError(f"{len(ids)} tokens do not fit into {length}")
    filler = [PADDING] * (length - len(ids))
    return filler + ids if left else ids + filler


class TextStream:
    """Batches of questions about scenes that sentences describe: lists of (sentences, prompt, answer).

    Half of them are about any combination, those that are never shown included. A language model that never reads of a
    girl kicking a kite learns that she does not, and stops looking.
    """

    def __init__(self, trainable: TrainableModel, seed: int, rank: int, n: int):
        """Choose what is drawn.

        Args:
            trainable: by whose categories
            seed: of the scenes
            rank: of the process; each has scenes of its own
            n: questions in a batch
        """
        self.trainable, self.seed, self.rank, self.n = trainable, seed, rank, n

    def __iter__(self) -> Iterator[list[tuple[str, str, str]]]:
        """Batches without end, the same for the same seed and rank."""
        rng = np.random.default_rng([self.seed, self.rank, 1])
        categories = [name for name in self.trainable.MIXTURE if name != "count"]
        tasks = list(words.TASKS)
        for count in itertools.count():
            batch: list[tuple[str, str, str]] = []
            while len(batch) < self.n // 2:
                index = count * self.n + len(batch)
                pair = sample(tasks[index % len(tasks)], TEXT_SEED + 10 * self.seed + self.rank, index, "test")
                description = sentences(pair.clean, kind_of(pair.category))
                assert description is not None
                batch.append((description, pair.clean_prompt, pair.options[0]))
            while len(batch) < self.n:
                (scene, _), _, _ = sample_pair(rng, str(rng.choice(categories)))
                question = ask(rng, scene)
                description = sentences(scene, question.kind)
                if description:
                    batch.append((description, question.prompt, question.answer))
            yield batch
