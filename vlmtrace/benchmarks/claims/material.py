"""What claims are measured on: one model, its pairs and its questions, each loaded once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.core import stats
from vlmtrace.core.schema import UNIT
from vlmtrace.core.shares import share_interval
from vlmtrace.inputs import by_corruption
from vlmtrace.methods.evaluation import USE, evaluate, select_samples
from vlmtrace.methods.lens import lens_contributions, right_answers
from vlmtrace.methods.patching import patch_heads
from vlmtrace.models import VLM, load_model
from vlmtrace.tasks import load_pairs, load_questions

#: Where the answer to a prompt is decided in these tasks; image positions are many, and notebooks patch them.
POSITIONS = ["correct", "last"]

TASKS = ("rendered_states", "rendered_faces", "rendered_svo")


@dataclass(frozen=True)
class Number:
    """A mean with its interval.

    Attributes:
        what: it is: "measured", or the name of a control
        value: the mean
        low: lower end of the 95 % interval; missing where there is none
        high: upper end
        n: units it is a mean of
        note: where it was found, such as "layer 12"
    """

    what: str
    value: float
    low: float
    high: float
    n: int
    note: str = ""


def number(
    what: str, values: Iterable[float], units: Iterable[Any] | None = None, note: str = "", share: bool = False
) -> Number:
    """The mean of some values, with its interval over units.

    Args:
        what: it is
        values: one for each pair or question; missing ones are left out
        units: of each value; None: each is its own
        note: where it was found
        share: whether values are shares, from 0 to 1; intervals of those that are all 0 or 1 are Wilson's

    >>> number("measured", [0.5, 0.5, float("nan")]).value
    0.5
    """
    table = pd.DataFrame({"value": np.asarray(list(values), dtype=float)})
    table["unit"] = list(units) if units is not None else range(len(table))
    means = table.dropna().groupby("unit", sort=False)["value"].mean().to_numpy()
    if not len(means):
        return Number(what, np.nan, np.nan, np.nan, 0, note)
    low, high = share_interval(means) if share else (float(end[0]) for end in stats.mean_interval(means))
    return Number(what, float(means.mean()), low, high, len(means), note)


class Material:
    """One model with what it is asked.

    Args:
        name: of the model
        n: pairs of each task, before selection, and questions
        seed: of pairs and questions
    """

    def __init__(self, name: str, n: int, seed: int = 0):
        self.name, self.n, self.seed = name, n, seed
        self._pairs: dict[str, pd.DataFrame] = {}
        self._effects: dict[tuple[str, str], pd.DataFrame] = {}

    @cached_property
    def model(self) -> VLM:
        """The model."""
        return load_model(self.name)

    def pairs(self, task: str) -> pd.DataFrame:
        """The pairs of a task that the model answers on both sides, half to discover on and half to verify on.

        Args:
            task: one of `TASKS`
        """
        if task not in self._pairs:
            evaluated = evaluate(self.model, load_pairs(task, n=self.n, seed=self.seed))
            self._pairs[task] = select_samples(evaluated, seed=self.seed)
        return self._pairs[task]

    @property
    def states(self) -> pd.DataFrame:
        """The pairs of rendered states."""
        return self.pairs("rendered_states")

    def head_effects(self, task: str, corruption: str) -> pd.DataFrame:
        """Effects of all heads at `POSITIONS`, with the task, unit and use of each pair.

        Args:
            task: one of `TASKS`
            corruption: one that the task's pairs have
        """
        if (task, corruption) not in self._effects:
            part = by_corruption(self.pairs(task))[corruption]
            table = patch_heads(self.model, part, corruption=corruption, positions=POSITIONS)
            of = part.assign(unit=units_of(part)).set_index("sample_id").loc[table["sample_id"], ["unit", USE]]
            self._effects[task, corruption] = table.assign(task=task, **{name: of[name].to_numpy() for name in of})
        return self._effects[task, corruption]

    @cached_property
    def answered(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Open questions about colors that the model answers, and what each head adds to the answers."""
        asked = load_questions("rendered_open", n=self.n, seed=self.seed, kind="color")
        right = asked[right_answers(self.model, asked)].reset_index(drop=True)
        return right, contributions_of(self.model, right, renormed=True)


def contributions_of(model: VLM, questions: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """As `lens_contributions`; of no question there is no row.

    Args:
        model: a decoder-only model
        questions: a questions table
        options: of `lens_contributions`
    """
    if questions.empty:
        names = ("log_p_increase", "log_p_increase_renormed")
        return pd.DataFrame(columns=["sample_id", "module", "layer", "head", *names])
    return lens_contributions(model, questions, **options)


def half(table: pd.DataFrame, use: str) -> pd.DataFrame:
    """The pairs that are for one use, "discover" or "verify".

    Args:
        table: from `select_samples`
        use: of the pairs
    """
    return table[table[USE] == use].reset_index(drop=True)


def units_of(table: pd.DataFrame) -> pd.Series:
    """The unit of each row.

    Args:
        table: of pairs or effects
    """
    return table[UNIT] if UNIT in table else table["sample_id"]
