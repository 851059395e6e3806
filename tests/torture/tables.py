"""Malformed tables of pairs, as functions are given them in a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hypothesis import strategies as st
from torture.outcome import Case

import vlmtrace as vt

#: What a cell may hold in somebody's table.
CELLS: tuple[Any, ...] = (
    None, float("nan"), "", " ", "\t\n", 0, 5, -1.5, True, float("inf"), [], {}, ("red",), b"red", pd.NaT, pd.NA,
    "\ud800", "a\x00b", "red\u2028blue", "🙂", "红色", "a" * 5000, "is this " * 400, "../../../etc/passwd", "/dev/zero",
    "/etc", "https://example.org/x.png", "$x^{_", "%s {0} {a}", "RED", " red ", "red, blue", "null", "nan",
    Path("x.png"),
)  # fmt: skip

INSTEAD_OF_A_TABLE: tuple[Any, ...] = (
    None, [], {}, "pairs.parquet", Path("pairs.parquet"), 3, True, object(), pd.Series([1]), np.zeros((2, 2)),
    pd.DataFrame(), [{"sample_id": "a"}],
)  # fmt: skip


class TableCases:
    """Cases about `vt.evaluate` on tables that were damaged in one to three ways.

    Args:
        model: answers them
        pairs: an intact table
    """

    kind = "table"

    def __init__(self, model: vt.VLM, pairs: pd.DataFrame):
        self.model, self.pairs = model, pairs
        self.expected = vt.evaluate(model, pairs).set_index("sample_id")

    def cases(self) -> st.SearchStrategy[Case]:
        """Draw a case."""
        return st.one_of(
            st.composite(self._damaged)(),
            st.sampled_from(INSTEAD_OF_A_TABLE).map(
                lambda value: Case(f"evaluate(model, {value!r:.60})", lambda: vt.evaluate(self.model, value), refused)
            ),
        )

    def _damaged(self, draw: Any) -> Case:
        table, said, touched = self.pairs.copy(), [], set()
        everything = set(table["sample_id"])
        for _ in range(draw(st.integers(1, 3))):
            damage = draw(st.sampled_from((self._cell, self._cell, self._column, self._rows, self._index)))
            table, words, rows = damage(draw, table)
            said.append(words)
            touched |= everything if rows is None else rows
        corruptions = draw(st.sampled_from((("image", "text"), ("image",), ("text",))))

        def check(result: Any) -> str | None:
            return self._wrong(result, everything - touched, corruptions)

        fine = all(words in ("nothing", "rows shuffled", "another index") for words in said)
        return Case(
            f"evaluate with {'; '.join(said)}",
            lambda: vt.evaluate(self.model, table, corruptions=corruptions),
            check,
            fine,
        )

    # Damages: the table, words about it, and the rows that are no longer as they were (None: any)

    def _cell(self, draw: Any, table: pd.DataFrame) -> tuple[pd.DataFrame, str, set[str] | None]:
        row = draw(st.integers(0, max(0, len(table) - 1)))
        column = draw(st.sampled_from([*self.pairs.columns, *self.pairs.columns[:10]]))
        value = draw(st.one_of(st.sampled_from(CELLS), st.text(max_size=30)))
        if column not in table or table.columns.duplicated().any() or row >= len(table):
            return table, "nothing", set()
        names = set(table["sample_id"].astype(str)) if "sample_id" in table else set()
        name = str(table["sample_id"].iloc[row]) if "sample_id" in table else ""
        values = table[column].astype(object).tolist()
        values[row] = value
        table = table.assign(**{column: pd.Series(values, index=table.index, dtype=object)})
        return table, f"{column}[{row}] = {value!r:.60}", {name} if column != "sample_id" else names

    def _column(self, draw: Any, table: pd.DataFrame) -> tuple[pd.DataFrame, str, set[str] | None]:
        column = draw(st.sampled_from(list(self.pairs.columns)))
        how = draw(st.sampled_from(("drop", "rename", "twice", "category", "string", "constant")))
        if column not in table or table.columns.duplicated().any():
            return table, "nothing", set()
        said = f"column {column}: {how}"
        if how == "drop":
            return table.drop(columns=column), said, None
        if how == "rename":
            return table.rename(columns={column: draw(st.sampled_from((column.upper(), "x", 3, "", None)))}), said, None
        if how == "twice":
            return pd.concat([table, table[[column]]], axis=1), said, None
        if how == "constant":
            value = draw(st.sampled_from(CELLS))
            return (
                table.assign(**{column: pd.Series([value] * len(table), index=table.index, dtype=object)}),
                said,
                None,
            )
        try:
            return table.astype({column: how}), said, set()
        except (TypeError, ValueError):
            return table, "nothing", set()

    def _rows(self, draw: Any, table: pd.DataFrame) -> tuple[pd.DataFrame, str, set[str] | None]:
        how = draw(st.sampled_from(("none", "one twice", "shuffled", "first")))
        if how == "none":
            return table.iloc[:0], "no rows", None
        if how == "one twice":
            return pd.concat([table, table.iloc[:1]]), "a row twice", None
        if how == "first":
            left = set(table["sample_id"].iloc[:1].astype(str)) if "sample_id" in table else set()
            return table.iloc[:1], "one row", set(self.pairs["sample_id"]) - left
        return table.sample(frac=1, random_state=draw(st.integers(0, 9))), "rows shuffled", set()

    def _index(self, draw: Any, table: pd.DataFrame) -> tuple[pd.DataFrame, str, set[str] | None]:
        n = len(table)
        index = draw(
            st.sampled_from(
                (
                    [0] * n,
                    list("abcdefgh")[:n],
                    [float("nan")] * n,
                    range(n, 0, -1),
                    pd.MultiIndex.from_product([range(n), [1]]),
                )
            )
        )
        return table.set_axis(index, axis=0) if len(index) == n else table, "another index", set()

    # What is right

    def _wrong(self, result: Any, intact: set[str], corruptions: tuple[str, ...]) -> str | None:
        if not isinstance(result, pd.DataFrame):
            return f"it returned a {type(result).__name__}"
        names = [str(name) for name in result["sample_id"]]
        if len(set(names)) != len(names):
            return "a pair stands there twice"
        lost = intact - set(names)
        if lost:
            return f"rows that are as they were are lost: {sorted(lost)}"
        runs = ["clean", *corruptions]
        for row in result.to_dict("records"):
            for run in runs:
                value = row[f"{run}_p_correct"]
                if run == "text" and row["corrupt_prompt"] == row["clean_prompt"]:  # a pair of images alone
                    if value == value:
                        return f"text_p_correct is {value} of a pair without text corruption"
                    continue
                if not 0 <= value <= 1:
                    return f"{run}_p_correct is {value}"
            own = self._naive(row)
            if abs(own - row["clean_p_correct"]) > 1e-4:
                return f"clean_p_correct of {row['sample_id']} is {row['clean_p_correct']}, but a pass gives {own}"
            if str(row["sample_id"]) in intact:
                there = self.expected.loc[str(row["sample_id"])]
                for run in runs:
                    if abs(row[f"{run}_p_correct"] - there[f"{run}_p_correct"]) > 1e-4:
                        return f"{row['sample_id']} has another {run}_p_correct than in the intact table"
        return None

    def _naive(self, row: dict[str, Any]) -> float:
        """The probability of the first token of the correct answer, by one forward pass."""
        inputs = self.model.encode([row["clean_image"]], [row["clean_input"]])
        token = row["correct_token_id"]
        if len(str(row["correct_tokens"]).split()) > 1:
            return float(row["clean_p_correct"])  # whole answers are checked where they are computed
        return float(torch.softmax(self.model.answer_logits(inputs)[0].float(), -1)[int(token)])


def refused(_: Any) -> str:
    """For what can never be right."""
    return "it was accepted"
