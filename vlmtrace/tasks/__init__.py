"""Pairs: what each dataset becomes. `load_pairs` is the door; `prepare_pairs` also tells what became of every row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.schema import validate_pairs
from vlmtrace.tasks import coco_qa, facial_expressions, mit_states, own_data, rendered
from vlmtrace.tasks.building.image_files import changed_share
from vlmtrace.tasks.building.row_audit import Filters, Prepared
from vlmtrace.tasks.own_data import one_question
from vlmtrace.tasks.sources import SOURCES, how_to_get
from vlmtrace.tasks.svo_probes import pairs as svo_probes

if TYPE_CHECKING:
    from vlmtrace.models import VLM


__all__ = [
    "QUESTIONS",
    "TASKS",
    "Prepared",
    "changed_share",
    "load_pairs",
    "load_questions",
    "one_question",
    "prepare_pairs",
    "validate_pairs",
]

#: Tasks that read data from a place on disk.
ROOTED: tuple[str, ...] = ("mit_states", "facial_expressions", "svo_probes", "coco_qa", "csv", "folder")

TASKS: tuple[str, ...] = (*rendered.TASKS, *ROOTED)

#: Datasets of questions without options.
QUESTIONS: tuple[str, ...] = ("rendered_open", "coco_qa", "clevr")


def load_pairs(
    task: str,
    n: int = 100,
    seed: int = 0,
    split: str = "test",
    *,
    root: str | Path | None = None,
    model: VLM | Callable[[str], int] | None = None,
    question: str = "",
) -> pd.DataFrame:
    """A table of minimal pairs: clean and corrupt image, clean and corrupt prompt, both options.

    Args:
        task: one of `TASKS`
        n: how many pairs, balanced over category and option order; a dataset may have fewer
        seed: the same seed gives the same pairs, images included
        split: "test" (of the rendered world: never seen in training) or "train"; datasets without splits know "test"
        root: where a dataset lies; None: data/raw/<task>. Holds it a folder named as the task, that is taken. Nothing
            is written there. The rendered world needs none
        model: the model that will be used, or a function that counts a prompt's tokens: both prompts of a pair have
            equally many under it. Without it, pairs of datasets have equally many words
        question: for the task "folder": a prompt in which {a} and {b} stand for the options
    Returns:
        the pairs table of the README; of the rendered world, with masks of the object asked about and the distractor
    Raises:
        VlmtraceError: the task is unknown, n is not a positive number, the dataset is not there or gives no pair
    """
    return prepare_pairs(task, n, seed, split, root=root, model=model, question=question).pairs


def prepare_pairs(
    task: str,
    n: int = 100,
    seed: int = 0,
    split: str = "test",
    *,
    root: str | Path | None = None,
    model: VLM | Callable[[str], int] | None = None,
    question: str = "",
) -> Prepared:
    """The same as `load_pairs`, with what every filter did, each row set aside with the reason, and the source."""
    one_of(task, TASKS, "task")
    one_of(split, ("test", "train"), "split")
    if n < 1:
        raise VlmtraceError(f"n={n} pairs cannot be made: ask for at least 1.")
    if question and task != "folder":
        raise VlmtraceError(f"The task {task} asks its own questions: a question goes with the task 'folder'.")
    if split != "test" and task not in (*rendered.TASKS, "facial_expressions"):
        raise VlmtraceError(f"The task {task} has no split {split!r}: leave split out.")
    filters = Filters()
    if task in rendered.TASKS:
        pairs = rendered.load(task, n=n, seed=seed, split=split)
        filters.add("rendered", n, {}, "pairs")
    else:
        where = find_root(task, root)
        match task:
            case "facial_expressions":
                pairs = facial_expressions.prepare(where, n, seed, model, filters, split)
            case "folder":
                pairs = own_data.prepare_folder(where, n, seed, model, filters, question or own_data.QUESTION)
            case "csv":
                pairs = own_data.prepare_csv(where, n, seed, model, filters)
            case _:
                module = {"mit_states": mit_states, "svo_probes": svo_probes, "coco_qa": coco_qa}[task]
                pairs = module.prepare(where, n, seed, model, filters)
    source = SOURCES["rendered" if task in rendered.TASKS else task]
    return Prepared(validate_pairs(pairs), filters.table(), filters.set_aside(), source)


def load_questions(
    task: str, n: int = 100, seed: int = 0, *, root: str | Path | None = None, kind: str | None = None
) -> pd.DataFrame:
    """A table of questions without options, each with its image, for causal tracing.

    Args:
        task: one of `QUESTIONS`
        n: how many questions, balanced over category (over the answers for yes and no); a dataset may have fewer
        kind: only this category: "color", "count" or "location"; of clevr all are "yes/no"; None: all
        root: as in `load_pairs`; the rendered world needs none
    Returns:
        columns sample_id, task, category, image, prompt, answer; of the rendered world also noun, object_mask and
        sentences (what the image shows, told in words; of colors only)
    Raises:
        VlmtraceError: the dataset is not there, or no question of it can be used
    """
    one_of(task, QUESTIONS, "dataset of questions")
    if n < 1:
        raise VlmtraceError(f"n={n} questions cannot be drawn: ask for at least 1.")
    if task == rendered.OPEN:
        return rendered.open_questions(n, seed, kind)
    if kind is not None:
        one_of(kind, coco_qa.KINDS[task], f"kind of question in {task}")
    return coco_qa.questions(task, find_root(task, root), n, seed, kind, Filters())


def find_root(task: str, root: str | Path | None) -> Path:
    """The place of a dataset on disk; a relative path starts at the working folder or at the repository.

    Raises:
        VlmtraceError: nothing is there; the sentence says what to get, and where to put it
    """
    if root is None or str(root) == "":
        found = paths.RAW / task
        if not found.exists():
            raise VlmtraceError(f"The task {task} needs data that are not here: {how_to_get(task)}.")
    else:
        given = Path(root).expanduser()
        found = given if given.is_absolute() or given.exists() else paths.ROOT / given
        if not found.exists():
            raise VlmtraceError(f"There is nothing at {root}: {how_to_get(task)}.")
        if (found / task).is_dir():
            found = found / task
    return found.resolve()
