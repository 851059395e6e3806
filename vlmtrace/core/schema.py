"""The columns of a pairs table, checked."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import pandas as pd
import pandera.errors
import pandera.pandas as pa

from vlmtrace.core.errors import VlmtraceError, one_of

_text = pa.Check(lambda column: column.str.strip() != "", error="is empty")


def _words(unique: bool = False) -> pa.Column:
    return pa.Column(str, _text, unique=unique)


#: What every pairs table must have; further columns are kept as they are.
PAIRS = pa.DataFrameSchema(
    {
        "sample_id": _words(unique=True),
        "task": _words(),
        "category": _words(),
        "clean_image": _words(),
        "corrupt_image": _words(),
        "clean_prompt": _words(),
        "corrupt_prompt": _words(),
        "correct_answer": _words(),
        "incorrect_answer": _words(),
        "correct_first": pa.Column(bool),
    }
)

#: What every table of questions without options must have; further columns are kept as they are.
QUESTIONS = pa.DataFrameSchema(
    {"sample_id": _words(unique=True), "category": _words(), "image": _words(), "prompt": _words()}
)


def check_columns(table: pd.DataFrame, needed: Iterable[str], what: str) -> None:
    """Raise a sentence if a column is missing; where another is spelled alike, say so."""
    for column in needed:
        if column not in table.columns:
            close = difflib.get_close_matches(column, [str(name) for name in table.columns], n=1)
            hint = f"rename {close[0]!r}" if close else f"it has {', '.join(map(str, table.columns)) or 'no columns'}"
            raise VlmtraceError(f"The {what} table has no column {column!r}: {hint}.")


def validate_pairs(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs unchanged if they follow the contract.

    Raises:
        VlmtraceError: a column is missing or of the wrong type, a sample_id stands twice, a text is empty, or there
            is no row. One sentence names the column and the row.
    """
    return _validate(pairs, PAIRS, "pairs", "build it with load_pairs")


def validate_questions(questions: pd.DataFrame) -> pd.DataFrame:
    """Return the questions unchanged if they follow the contract; raises as `validate_pairs`."""
    return _validate(questions, QUESTIONS, "questions", "build it with load_questions")


def _validate(table: pd.DataFrame, schema: pa.DataFrameSchema, what: str, remedy: str) -> pd.DataFrame:
    check_columns(table, schema.columns, what)
    if table.empty:
        raise VlmtraceError(f"The {what} table has no rows: {remedy}, or relax the selection.")
    repeated = table["sample_id"][table["sample_id"].duplicated()]
    if len(repeated):
        raise VlmtraceError(
            f"The {what} table holds sample_id {repeated.iloc[0]!r} more than once ({len(repeated)} rows too many): "
            "give every row its own."
        )
    try:
        return schema.validate(table)
    except pandera.errors.SchemaError as error:
        column = getattr(error.schema, "name", None)
        cases = error.failure_cases
        row = ""
        if isinstance(cases, pd.DataFrame) and "index" in cases and pd.notna(cases["index"].iloc[0]):
            row = f", row {table.loc[cases['index'].iloc[0], 'sample_id']!r},"
        raise VlmtraceError(
            f"The {what} table's column {column!r}{row} fails {error.check}: correct it (columns: see the README)."
        ) from error


CELL = ["task", "corruption"]
HEAD = ["block", "module", "layer", "head"]


def check_table(table: pd.DataFrame, columns: Iterable[str], what: str) -> pd.DataFrame:
    """Return the table, or raise a sentence that says which column it lacks, or that it is empty."""
    check_columns(table, columns, what)
    if table.empty:
        raise VlmtraceError(f"The {what} table has no rows: there is nothing to draw.")
    return table


def pick(table: pd.DataFrame, what: str, **choices: object) -> pd.DataFrame:
    """The rows of `table` that have the chosen values; None stands for the only value there is.

    Raises:
        VlmtraceError: a column is missing, a value does not occur, or None leaves several to choose from.
    """
    check_table(table, choices, what)
    for column, choice in choices.items():
        known = list(table[column].unique())
        if choice is None and len(known) > 1:
            raise VlmtraceError(
                f"The {what} table holds several values of {column}: choose one of {', '.join(map(str, known))}."
            )
        if choice is not None:
            one_of(choice, known, column)  # type: ignore[arg-type]
            table = table[table[column] == choice]
    return table
