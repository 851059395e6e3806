"""The clean and the corrupt run of pairs, aligned position by position."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import pandas as pd
import torch

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import IMAGE_LISTS, list_problem
from vlmtrace.inputs.alignment import sizes_mismatch
from vlmtrace.inputs.answers import Answers, contrast_names, find_answers, first_ids
from vlmtrace.inputs.batch_runs import PairRuns, WholeRuns
from vlmtrace.inputs.corruption import prefix_of, run_inputs, token_mismatch
from vlmtrace.inputs.encodable import named
from vlmtrace.inputs.given_answers import GivenAnswers
from vlmtrace.inputs.pictures import images_of
from vlmtrace.models import VLM, Inputs, Readout, Trace
from vlmtrace.models.diagnosis import named_rows
from vlmtrace.models.finite import check_finite
from vlmtrace.models.products import FastProducts, by_fast_products
from vlmtrace.models.several_images import opened
from vlmtrace.models.types import WholeAnswer
from vlmtrace.models.vlm import inputs_of_pairs


def encode_pair(model: VLM, pairs: pd.DataFrame, row: int, corruption: str) -> tuple[Inputs, Inputs]:
    """Clean and corrupt inputs of one pair.

    Args:
        model: its processor makes the inputs
        pairs: a pairs table
        row: number of the pair in it
        corruption: "image" or "text"

    Returns:
        clean and corrupt inputs, of batch 1 and of equal shapes

    Raises:
        VlmtraceError: the two images, or the words of the two prompts, are not aligned (see
            `vlmtrace.inputs.alignment`), or an image or a prompt is none that the model takes; the sentence names the
            pair
    """
    one = pairs.iloc[[row]]
    with named(f"pair {one['sample_id'].iloc[0]!r}"):
        pair = one.iloc[0].to_dict()
        problem = list_problem(pair)
        if problem:
            raise VlmtraceError(problem)
        # Read once, and only what this corruption needs.
        columns = ["clean_image"] if corruption == "text" else ["clean_image", "corrupt_image"]
        images = {column: opened(images_of(pair, column)) for column in columns}
        # Under image corruption both runs read the clean prompt.
        problem = (
            token_mismatch(model, pair)
            if corruption == "text"
            else sizes_mismatch(model, *([image.size for image in images[column]] for column in columns))
        )
        if problem:
            raise VlmtraceError(problem)
        model.check_n_images(len(images["clean_image"]))
    for column, found in images.items():
        one = one.assign(**{IMAGE_LISTS[column] if len(found) > 1 else column: [found if len(found) > 1 else found[0]]})
    clean, corrupt = (run_inputs(model, one, run) for run in ("clean", corruption))
    problem = model.misaligned(clean, corrupt)
    if problem:
        raise VlmtraceError(f"Pair {pairs['sample_id'].iloc[row]!r}: {problem}")
    return clean, corrupt


def run_pairs(
    model: VLM,
    pairs: pd.DataFrame,
    encoded: Sequence[tuple[Inputs, Inputs]],
    corruption: str = "image",
    contrast: str = "answer",
) -> PairRuns:
    """Run a batch of pairs clean and corrupt, and keep what every layer gives.

    Args:
        model: the model
        pairs: the batch's rows of a pairs table
        encoded: from `encode_pair`, one per row, all of equal shapes
        corruption: of the corrupt runs
        contrast: "answer" or "options", see `vlmtrace.inputs.answers`

    Returns:
        both runs

    Raises:
        VlmtraceError: an answer cannot be written in the model's tokens, both answers of a pair are the same, answers
            differ in length within the batch, or a run gives numbers that are not finite
    """
    (alike,) = run_alike(model, pairs, encoded, corruption, contrast, split=False)
    return alike[1]


def run_alike(
    model: VLM,
    pairs: pd.DataFrame,
    encoded: Sequence[tuple[Inputs, Inputs]],
    corruption: str,
    contrast: str,
    split: bool = True,
) -> Iterator[tuple[list[int], PairRuns]]:
    """As `run_pairs`, in parts in which answers have equally many tokens: which answers are measured, the runs tell.

    Args:
        model: the model
        pairs: the batch's rows of a pairs table
        encoded: from `encode_pair`, one per row, all of equal shapes
        corruption: of the corrupt runs
        contrast: "answer" or "options"
        split: whether the batch may fall into parts

    Yields:
        the numbers of the rows of a part, and its runs

    Raises:
        VlmtraceError: as `run_pairs`
    """
    clean_inputs, inputs = _joined(encoded)
    traces = []
    for run, its_inputs in (("clean", clean_inputs), (corruption, inputs)):
        names = [f"pair {name!r} ({run} run)" for name in pairs["sample_id"]]
        with named_rows(model, its_inputs, names), FastProducts():
            traces.append(model.trace(its_inputs))
    clean, corrupt = traces
    given = GivenAnswers(model, clean_inputs, clean.logits), GivenAnswers(model, inputs, corrupt.logits)
    answers = []
    for row, pair in enumerate(pairs.to_dict("records")):
        options = (pair["correct_answer"], pair["incorrect_answer"])
        answers.append(find_answers(model, options, *given, row, corruption, contrast, prefix_of(pair)))
    by_length: dict[tuple[int, int], list[int]] = {}
    for row, one in enumerate(answers):
        by_length.setdefault(one.lengths, []).append(row)
    if len(by_length) == 1:
        yield list(range(len(pairs))), _measured(model, given, clean, corrupt, answers)
    elif not split:
        raise VlmtraceError("Answers of unlike numbers of tokens cannot share a batch: run their pairs one by one.")
    elif not clean.calls:
        for rows in by_length.values():
            mine = [answers[row] for row in rows]
            yield rows, _measured(model, given, clean.rows(rows), corrupt.rows(rows), mine, rows)
    else:
        # How a language model calls its layers belongs to a whole batch.
        for rows in by_length.values():
            for _, runs_of in run_alike(model, pairs.iloc[rows], [encoded[row] for row in rows], corruption, contrast):
                yield rows, runs_of


def _joined(encoded: Sequence[tuple[Inputs, Inputs]]) -> tuple[Inputs, Inputs]:
    clean_inputs, inputs = (
        {key: torch.cat([side[key] for side in sides]) for key in sides[0]} for sides in zip(*encoded, strict=True)
    )
    return clean_inputs, inputs


def _measured(
    model: VLM,
    given: tuple[GivenAnswers, GivenAnswers],
    clean: Trace,
    corrupt: Trace,
    answers: list[Answers],
    rows: Sequence[int] | None = None,
) -> PairRuns:
    """The runs of a batch, or of some rows of it; traces and answers are of these rows alone."""
    inputs = [one.inputs for one in given]
    if rows is not None:
        inputs = [inputs_of_pairs(one.inputs, rows, len(one.first)) for one in given]
    contrasts = contrast_names(model, answers)
    if answers[0].is_single:
        ids = first_ids(answers, clean.logits.device)
        readouts = Readout.of(clean.logits, ids), Readout.of(corrupt.logits, ids)
        return PairRuns(inputs[0], inputs[1], clean, corrupt, answers, contrasts, *readouts)
    # No token of an answer changes the image embeddings: those of the runs without it are taken.
    images = (
        [one.image if rows is None else one.image[list(rows)] for one in given] if model.answers_apart else [None] * 2
    )
    sides = []
    readouts_of_sides = []
    for which in ("correct", "contrast"):
        ids = torch.tensor([getattr(one, which) for one in answers], device=clean.logits.device)  # (pair, token)
        longer, longer_corrupt = (model.extend(run, ids[:, :-1]) for run in inputs)
        traces = (
            _trace_longer(model, longer, clean, images[0]),
            _trace_longer(model, longer_corrupt, corrupt, images[1]),
        )
        side = WholeRuns(WholeAnswer(ids), longer, longer_corrupt, *traces)
        sides.append(side)
        readouts_of_sides.append(
            [_read_side(model, side, run, image) for run, image in zip(("clean", "corrupt"), images, strict=True)]
        )
    whole = (sides[0], sides[1])
    clean_readout, corrupt_readout = (Readout.of_two(*both) for both in zip(*readouts_of_sides, strict=True))
    return PairRuns(inputs[0], inputs[1], clean, corrupt, answers, contrasts, clean_readout, corrupt_readout, whole)


@torch.no_grad()
@by_fast_products
def _trace_longer(model: VLM, inputs: Inputs, trace: Trace, image: torch.Tensor | None) -> Trace:
    """The trace of a run with an answer given; `trace` is that of the same run without it."""
    if not model.answers_apart:
        return model.trace(inputs)
    # Nothing in front of the answer's own block has changed.
    block = model.answer_block
    longer = model.trace(inputs, model.sites([block]), image)
    own = longer.layer_inputs[block]
    before = {name: value for name, value in trace.layer_inputs.items() if name != block}
    return dataclasses.replace(
        trace,
        logits=longer.logits,
        activations={**trace.activations, **longer.activations},
        layer_inputs={**before, block: own},
    )


@torch.no_grad()
@by_fast_products
def _read_side(model: VLM, side: WholeRuns, run: str, image: torch.Tensor | None) -> Readout:
    logits = model.last_logits(_inputs_of(side, run), side.ids.n_positions, image)
    return Readout.of_last(check_finite(model.name, logits), side.ids)


def _read_whole(model: VLM, run: str, whole: tuple[WholeRuns, WholeRuns], image: torch.Tensor | None = None) -> Readout:
    return Readout.of_two(*(_read_side(model, side, run, image) for side in whole))


@by_fast_products
def read_again(model: VLM, runs: PairRuns, run: str = "clean", image: torch.Tensor | None = None) -> Readout:
    """Run the inputs again, under whatever hooks are attached, and read both answers out.

    Args:
        model: the model
        runs: of a batch of pairs
        run: "clean" or "corrupt"
        image: (pair, image position, width), which replaces the image embeddings

    Returns:
        readout of shape (pair,)
    """
    if runs.whole is None:
        return Readout.of(model.answer_logits(_inputs_of(runs, run), image), runs.answer_ids)
    return _read_whole(model, run, runs.whole, image)


def _inputs_of(runs: PairRuns | WholeRuns, run: str) -> Inputs:
    return runs.clean_inputs if run == "clean" else runs.inputs
