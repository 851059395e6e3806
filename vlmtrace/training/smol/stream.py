"""Batches of questions about pictures, and about scenes in words, as packed token sequences.

A batch is a function of the recipe and its number alone, so that a killed training goes on with the same batches,
however many processes render them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vlmtrace.tasks.rendered.pairs import sample
from vlmtrace.tasks.rendered.questions import Scene, ask, ask_again, sentences
from vlmtrace.tasks.rendered.words import TASKS
from vlmtrace.training.data import GRID, TEXT_SEED, kind_of, sample_pair
from vlmtrace.training.smol.assembled import END
from vlmtrace.training.smol.recipe import MIXTURE, Recipe

#: Whose a token is: every question's that follows the row's image, or nobody's, as padding.
EVERYBODY, NOBODY = -1, -2
#: Lengths are multiples of this: libraries compile or choose a kernel anew for every new shape.
ROUND = 32
#: What is learned from: questions about images and about sentences, and the language model's own text.
ABOUT_IMAGE, TOLD, OWN_TEXT = range(3)
#: Questions about sentences, and texts, that share a row.
PER_ROW = {TOLD: 4, OWN_TEXT: 2}
#: The open question that is answered by all that sentences tell of a picture.
DESCRIBE = "What is in the picture?"


class Segment(NamedTuple):
    """A question with its answer: tokens, and what follows on the last ones of them.

    Attributes:
        ids: the question and all of the answer but its end
        targets: tokens of the answer with its end; the first follows on ids[-len(targets)]
    """

    ids: list[int]
    targets: list[int]


class Encoder:
    """Questions as the chat template writes them, in tokens."""

    def __init__(self, tokenizer: Any) -> None:
        """Encode what all questions have in common.

        Args:
            tokenizer: SmolLM2's; it ends its turns with <|im_end|>
        """
        self._ids: Callable[[str], list[int]] = lambda text: tokenizer(text, add_special_tokens=False).input_ids
        self.start = self._ids("<|im_start|>user\n")
        self.middle = self._ids(f"{END}\n<|im_start|>assistant\n")
        self.end = self._ids(END)

    def about_image(self, prompt: str, answer: str) -> Segment:
        """A question that follows on an image's tokens.

        Args:
            prompt: the question
            answer: what is to be generated
        """
        targets = self._ids(answer) + self.end
        return Segment(self._ids(prompt) + self.middle + targets[:-1], targets)

    def told(self, told: str, prompt: str, answer: str) -> Segment:
        """A question about what sentences tell, from the beginning of the sequence.

        Args:
            told: the sentences
            prompt: the question
            answer: what is to be generated
        """
        ids, targets = self.about_image(prompt, answer)
        return Segment(self.start + self._ids(f"{told} ") + ids, targets)


@dataclass
class Batch:
    """Rows of tokens; the first of them begin with an image.

    Attributes:
        pixels: (images, 96, 96, 3) uint8
        ids: (rows, T) int64; anything at image tokens
        owner: (rows, T) int64: number of the question in the row, EVERYBODY or NOBODY
        position: (rows, T) int64: where the token would be if its question stood alone
        at: (targets, 2) int64: row and place whose next token is a target
        target: (targets,) int64
        question: (targets,) int64: number of the question in the batch
        kind: (targets,) int64: of ABOUT_IMAGE, TOLD, OWN_TEXT
    """

    pixels: Tensor
    ids: Tensor
    owner: Tensor
    position: Tensor
    at: Tensor
    target: Tensor
    question: Tensor
    kind: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})


@dataclass
class _Rows:
    """What `Batch` holds, while it grows."""

    rows: list[list[tuple[int, int, int]]] = field(default_factory=list)  # (id, owner, position)
    at: list[tuple[int, int]] = field(default_factory=list)
    target: list[int] = field(default_factory=list)
    question: list[int] = field(default_factory=list)
    n_questions: int = 0

    def add(self, prefix: Sequence[int], segments: Iterable[Segment]) -> None:
        row = [(token, EVERYBODY, place) for place, token in enumerate(prefix)]
        for number, segment in enumerate(segments):
            first = len(row) + len(segment.ids) - len(segment.targets)
            row += [(token, number, len(prefix) + place) for place, token in enumerate(segment.ids)]
            for place, token in enumerate(segment.targets):
                self.at.append((len(self.rows), first + place))
                self.target.append(token)
                self.question.append(self.n_questions)
            self.n_questions += 1
        self.rows.append(row)


def packed(
    pixels: np.ndarray,
    about: Sequence[Sequence[Segment]],
    told: Sequence[Segment],
    encoder: Encoder,
    own: Sequence[Segment] = (),
) -> Batch:
    """Questions about images, one row for each image, and what needs none, a few to a row.

    Args:
        pixels: (images, 96, 96, 3) uint8
        about: for each image, its questions
        told: questions about sentences
        encoder: what made them
        own: texts of the language model's own
    """
    rows = _Rows()
    for segments in about:
        rows.add([*encoder.start, *([0] * GRID**2)], segments)
    kinds = [ABOUT_IMAGE] * len(rows.target)
    for kind, alone in ((TOLD, told), (OWN_TEXT, own)):
        for first in range(0, len(alone), PER_ROW[kind]):
            rows.add([], alone[first : first + PER_ROW[kind]])
        kinds += [kind] * (len(rows.target) - len(kinds))
    length = -(-max(len(row) for row in rows.rows) // ROUND) * ROUND
    table = np.full((len(rows.rows), length, 3), (0, NOBODY, 0), dtype=np.int64)
    for index, row in enumerate(rows.rows):
        table[index, : len(row)] = row
    ids, owner, position = torch.from_numpy(table).unbind(-1)
    return Batch(
        torch.from_numpy(pixels),
        ids.contiguous(),
        owner.contiguous(),
        position.contiguous(),
        torch.tensor(rows.at),
        torch.tensor(rows.target),
        torch.tensor(rows.question),
        torch.tensor(kinds),
    )


def training_batch(step: int, recipe: Recipe, encoder: Encoder, texts: Sequence[Sequence[int]]) -> Batch:
    """The batch of a step, of training combinations only, save what is told in words.

    Args:
        step: its number
        recipe: how many of what
        encoder: of the questions
        texts: tokens of texts of the language model's own, that take turns
    """
    rng = np.random.default_rng([recipe.seed, step])
    pixels, about = [], []
    for drawn in rng.choice(list(MIXTURE), recipe.n_pairs, p=list(MIXTURE.values())):
        category = str(drawn)
        scenes, options, counted = sample_pair(rng, category)
        for scene in scenes:
            pixels.append(scene.render().pixels)
            about.append([encoder.about_image(*one) for one in _asked(rng, scene, category, options, counted, recipe)])
    told = [encoder.told(*one) for one in told_questions(step, recipe)]
    turn = [texts[(step * recipe.n_own + index) % len(texts)] for index in range(recipe.n_own)]
    own = [Segment(list(text[:-1]), list(text[1:])) for text in turn]
    return packed(np.stack(pixels), about, told, encoder, own)


def _asked(
    rng: np.random.Generator,
    scene: Scene,
    category: str,
    options: tuple[str, str],
    counted: str | None,
    recipe: Recipe,
) -> list[tuple[str, str]]:
    """Prompts and answers: random ones, the pair's own, and what the picture shows in words."""
    asked: list[tuple[str, str]] = []
    if not counted:
        again = ask_again(rng, scene, category, options)
        asked.append((again.prompt, again.answer))
        description = sentences(scene, category if category in ("color", "shape", "texture") else "emotion")
        if description:
            asked.append((DESCRIBE, description))
    for _ in range(recipe.n_questions - len(asked)):
        question = ask(rng, scene, counted)
        asked.append((question.prompt, question.answer))
    return asked


def told_questions(step: int, recipe: Recipe) -> list[tuple[str, str, str]]:
    """Sentences, prompt and answer of a step's questions without an image, half of them about any combination.

    Pairs show combinations that no training picture shows. A model that never reads of them either learns that they
    are wrong without looking.

    Args:
        step: the number of the batch
        recipe: how many
    """
    rng = np.random.default_rng([recipe.seed, step, 1])
    rows: list[tuple[str, str, str]] = []
    while len(rows) < recipe.n_told // 2:
        index = step * recipe.n_told + len(rows)
        pair = sample(TASKS[index % len(TASKS)], TEXT_SEED + recipe.seed, index, "test")
        description = sentences(pair.clean, kind_of(pair.category))
        assert description is not None
        rows.append((description, pair.clean_prompt, pair.options[0]))
    categories = [name for name in MIXTURE if name != "count"]
    while len(rows) < recipe.n_told:
        (scene, _), _, _ = sample_pair(rng, str(rng.choice(categories)))
        question = ask(rng, scene)
        description = sentences(scene, question.kind)
        if description:
            rows.append((description, question.prompt, question.answer))
    return rows


class _Made(Dataset):
    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


def made_ahead(make: Callable[[int], Any], indices: Sequence[int], workers: int) -> Iterator[Any]:
    """What `make` gives for each index, in order, made ahead by processes of their own.

    Args:
        make: can be pickled
        indices: what it is called with
        workers: how many processes; 0: it is made here, when it is asked for
    """
    loader = DataLoader(
        _Made(make),
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread,
    )
    return iter(loader)


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def training_batches(
    recipe: Recipe, encoder: Encoder, texts: Sequence[Sequence[int]], first: int, workers: int
) -> Iterator[Batch]:
    """The batches of the steps from `first` on.

    Args:
        recipe: how many of what
        encoder: of the questions
        texts: of the language model's own
        first: number of the first step
        workers: processes that render them
    """
    make = partial(training_batch, recipe=recipe, encoder=encoder, texts=texts)
    return made_ahead(make, range(first, recipe.steps + 1), workers)
