"""From the name of a data set to its table of pairs or of questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from vlmtrace.core import paths
from vlmtrace.core.arguments import Count, Seed, checked
from vlmtrace.core.errors import LONGEST_QUOTE, VlmtraceError, one_of
from vlmtrace.core.schema import is_writable, validate_pairs, validate_questions
from vlmtrace.inputs.units import with_units
from vlmtrace.tasks import registry
from vlmtrace.tasks.building.row_audit import Prepared
from vlmtrace.tasks.building.token_replacement import CountTokens
from vlmtrace.tasks.declaration import Request, Task

if TYPE_CHECKING:
    from vlmtrace.models import VLM


@checked
def load_pairs(
    task: str,
    n: Count = 100,
    seed: Seed = 0,
    split: str = "test",
    *,
    root: str | Path | None = None,
    model: VLM | CountTokens | None = None,
    question: str = "",
) -> pd.DataFrame:
    """A table of minimal pairs: clean and corrupt image, clean and corrupt prompt, both options.

    Args:
        task: name of a data set that gives pairs, such as "rendered_states", "mit_states" or "csv"
        n: how many pairs, balanced over category and option order; a data set may have fewer
        seed: the same seed gives the same pairs, images included
        split: "test" or "train", where the data set has both (the rendered world shows in "test" also combinations
            that never occur in training)
        root: where the data lie; None: data/raw/<task>. If it holds a folder named as the task, that is taken. Nothing
            is written there. The rendered world needs none
        model: the model that will be used, or a function from a prompt to its number of tokens: both prompts of a pair
            have equally many under it. Without it, pairs of data sets have equally many words, those of the rendered
            world equally many tokens under the bundled tokenizer
        question: for the task "folder": a prompt in which {a} and {b} stand for the options

    Returns:
        one row per pair, with the columns of the contract's `pairs` table; of the rendered world also the masks of the
        object asked about and of the distractor

    Raises:
        VlmtraceError: the task is unknown or has no such split, n is not a positive number, the data are not there, or
            no pair can be made of them

    Example:
        >>> import vlmtrace as vt
        >>> pairs = vt.load_pairs("rendered_states", n=2, seed=0)
        >>> pairs[["category", "correct_first"]].values.tolist()
        [['color', True], ['color', False]]
    """
    return prepare_pairs(task, n, seed, split, root=root, model=model, question=question).pairs


@checked
def prepare_pairs(
    task: str,
    n: Count = 100,
    seed: Seed = 0,
    split: str = "test",
    *,
    root: str | Path | None = None,
    model: VLM | CountTokens | None = None,
    question: str = "",
) -> Prepared:
    """The pairs of `load_pairs`, with an account of every raw row that did not become one.

    Args:
        task: as in `load_pairs`
        n: as in `load_pairs`
        seed: as in `load_pairs`
        split: as in `load_pairs`
        root: as in `load_pairs`
        model: as in `load_pairs`
        question: as in `load_pairs`

    Returns:
        pairs: the table of `load_pairs`; filters: one row per filter, with the rows that came in and that passed;
        set_aside: one row per raw row that did not pass, with the reason; source: name, url, licence and citation

    Raises:
        VlmtraceError: as `load_pairs`

    Example:
        >>> import vlmtrace as vt
        >>> prepared = vt.prepare_pairs("rendered_svo", n=2)
        >>> prepared.filters.to_dict("records")
        [{'step': 'rendered', 'unit': 'pairs', 'rows_in': 2, 'rows_used': 2, 'rows_set_aside': 0}]
        >>> prepared.source["licence"]
        'MIT, as vlmtrace'
    """
    declared = registry.declared()[one_of(task, registry.TASKS, "task")]
    if question and not declared.takes_question:
        takers = " or ".join(repr(other.name) for other in registry.declared().values() if other.takes_question)
        raise VlmtraceError(f"The task {task} asks its own questions: a question goes with the task {takers}.")
    _check_split(declared, split)
    request = Request(task, n, seed, _root(declared, root), split, model, question)
    assert declared.pairs is not None, "registry.TASKS are those that give pairs"
    pairs = with_units(validate_pairs(declared.pairs(request)))
    filters = request.filters
    if not filters.steps:
        filters.add("made", len(pairs), {}, "pairs")
    return Prepared(pairs, filters.table(), filters.set_aside(), declared.source.record())


@checked
def load_questions(
    task: str,
    n: Count = 100,
    seed: Seed = 0,
    *,
    root: str | Path | None = None,
    kind: str | None = None,
    split: str | None = None,
) -> pd.DataFrame:
    """A table of questions without options, each with its image, for causal tracing and the visual lens.

    Args:
        task: name of a data set that gives questions: "rendered_open", "coco_qa" or "clevr"
        n: how many questions, balanced over category (over the answers where they are yes and no); a data set may have
            fewer
        seed: the same seed gives the same questions
        root: as in `load_pairs`
        kind: only questions of this category: "color", "count" or "location"; of clevr all are "yes/no"; None: all
        split: where root holds several: "test" or "train" of coco_qa, "val" or "train" of clevr; None: the first

    Returns:
        one row per question: sample_id, task, category, image, prompt, answer; of the rendered world also noun,
        object_mask and sentences (what the image shows, told in words; missing where words cannot tell it); unit (that
        of questions about one image)

    Raises:
        VlmtraceError: the task, kind or split is unknown, the data are not there, or no question of them can be used

    Example:
        >>> import vlmtrace as vt
        >>> vt.load_questions("rendered_open", n=3)["category"].tolist()
        ['color', 'count', 'location']
    """
    declared = registry.declared()[one_of(task, registry.QUESTIONS, "data set of questions")]
    if kind is not None:
        one_of(kind, declared.question_kinds, f"kind of question in {task}")
    assert declared.questions is not None, "registry.QUESTIONS are those that give questions"
    split = declared.splits[0] if split is None else split
    _check_split(declared, split)
    request = Request(task, n, seed, _root(declared, root), split, kind=kind)
    return with_units(validate_questions(declared.questions(request)))


def _check_split(task: Task, split: str) -> None:
    if split not in task.splits:
        remedy = "leave split out" if len(task.splits) == 1 else f"choose one of {', '.join(task.splits)}"
        raise VlmtraceError(f"The task {task.name} has no split {split!r}: {remedy}.")


def _root(task: Task, root: str | Path | None) -> Path:
    return find_root(task.name, root) if task.needs_root else Path()


@checked
def find_root(task: str, root: str | Path | None) -> Path:
    """Where the data of a data set lie.

    Args:
        task: name of the data set
        root: a folder or file; a relative path starts at the working folder or at the repository. If it holds a folder
            named as the task, that is taken. None or empty: data/raw/<task>

    Returns:
        an absolute path to something that exists

    Raises:
        VlmtraceError: nothing is there; the sentence says what to get, and where to put it
    """
    source = registry.declared()[task].source
    whence = f" ({source.url})" if source.url.startswith("http") else ""
    remedy = (
        f"get {source.needs}{whence}, and name the place as root (ROOT), or put it into "
        f"{paths.relative(paths.RAW / task)}"
    )
    if root is None or str(root) == "":
        found = paths.RAW / task
        if not found.exists():
            raise VlmtraceError(f"The task {task} needs data that are not here: {remedy}.")
    else:
        given = paths.from_home(root)
        try:
            found = given if given.is_absolute() or given.exists() else paths.ROOT / given
            there, usable = found.exists(), found.is_dir() or found.is_file()
        except (OSError, ValueError):  # a name that is longer than names can be, or holds what none can
            there = usable = False
        if not there:
            raise VlmtraceError(f"There is nothing at {str(root)[:LONGEST_QUOTE]}: {remedy}.")
        if not usable:
            raise VlmtraceError(f"{root} is neither a folder nor a file: {remedy}.")
        if (found / task).is_dir():
            found = found / task
    found = found.resolve()
    if not is_writable(str(found)):
        raise VlmtraceError(f"The path {str(found)!a} is no text, and no table can hold it: rename the folder.")
    return found
