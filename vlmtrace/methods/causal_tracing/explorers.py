"""The explorer of causal tracing: one question at a time (notebook 07)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_table
from vlmtrace.display.choices import chosen_row, row_options
from vlmtrace.display.figure_explorer import FigureExplorer, Options, dropdown
from vlmtrace.methods.causal_tracing.figures import COLUMNS, draw_trace


@checked
def trace_explorer(questions: pd.DataFrame, effects: pd.DataFrame) -> FigureExplorer:
    """Where does restoring bring the answer back? Choose the question and the token of its answer.

    Args:
        questions: a questions table
        effects: from `causal_trace`
    Returns:
        the explorer; as the last line of a notebook's cell it is displayed
    Raises:
        VlmtraceError: a table lacks a column, or they have no question in common.
    """
    check_table(questions, ["sample_id", "image", "prompt"], "questions")
    check_table(effects, [*COLUMNS, "answer_token"], "causal_tracing")
    shown = questions[questions["sample_id"].isin(effects["sample_id"])]
    if shown.empty:
        raise VlmtraceError("No question of the table was traced: pass the questions that the effects belong to.")

    def steps(settings: Mapping[str, Any]) -> Options:
        mine = effects[effects["sample_id"] == settings["sample_id"]].drop_duplicates("step")
        return [(f"{row.step + 1}: {row.answer_token}", int(row.step)) for row in mine.itertuples()]

    controls = {
        "sample_id": dropdown("question", row_options(shown, "prompt")),
        "step": dropdown("answer token", steps({"sample_id": shown["sample_id"].iloc[0]})),
    }
    draw = functools.partial(draw_question, questions=shown, effects=effects)
    return FigureExplorer(draw, controls, follow={"step": steps})


def draw_question(
    figure: Figure, *, questions: pd.DataFrame, effects: pd.DataFrame, sample_id: str | None = None, step: int = 0
) -> None:
    """Draw the image, and what restoring each site does to one token of the answer.

    Args:
        figure: an empty figure
        questions: a questions table
        effects: from `causal_trace`
        sample_id: None: the first question
        step: token of the answer, from 0
    Raises:
        VlmtraceError: there is no such question or step.
    """
    question = chosen_row(questions, sample_id, "question")
    draw_trace(figure, effects, question["sample_id"], step, picture=question["image"])
    title = figure.get_suptitle().replace(f"{question['sample_id']}, ", f"{question['prompt']}  ")
    figure.suptitle(title)
