"""All tables of the contract, and checks that fail with one sentence naming the table, the column and the row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import pandas as pd

from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.schema.cells import check_cells
from vlmtrace.core.schema.columns import Table, require_columns
from vlmtrace.core.schema.edge_tables import EDGE_TABLES
from vlmtrace.core.schema.effect_tables import EFFECT_TABLES
from vlmtrace.core.schema.image_lists import check_image_lists, check_single_columns
from vlmtrace.core.schema.pair_tables import PAIR_TABLES, PAIRS, QUESTIONS
from vlmtrace.core.schema.prior_tables import PRIOR_TABLES
from vlmtrace.core.schema.question_tables import QUESTION_TABLES
from vlmtrace.core.stored import StoredTable, batches_of

#: A table in memory or on disk.
Stored = TypeVar("Stored", pd.DataFrame, StoredTable)

#: Every table of the contract by its name, in the order in which notebooks write them.
TABLES: dict[str, Table] = {
    table.name: table for table in (*PAIR_TABLES, *EFFECT_TABLES, *QUESTION_TABLES, *EDGE_TABLES, *PRIOR_TABLES)
}

#: What to do about a table without rows.
_REMEDIES = {PAIRS.name: "build it with load_pairs", QUESTIONS.name: "build it with load_questions"}


def check_written(name: str, table: Stored) -> Stored:
    """Return a table that is about to be written under this name, if it keeps the contract.

    Args:
        name: the table's name; one that the contract does not know is a table of the user's own, and passes
        table: what is to be written, in memory or on disk

    Returns:
        the same table

    Raises:
        VlmtraceError: a column is missing or holds values of another kind
    """
    return _check_all(TABLES[name], table) if name in TABLES else table


def check_read(name: str, table: Stored, path: str = "") -> Stored:
    """Return a table that was read under this name, if it keeps the contract.

    Args:
        name: the table's name; one that the contract does not know passes
        table: what was read, or lies on disk
        path: the file that it was read from, for the sentence

    Returns:
        the same table

    Raises:
        VlmtraceError: it breaks the contract, or has no rows where it needs some: the table comes from elsewhere
    """
    if name not in TABLES:
        return table
    contract = TABLES[name]
    if contract.needs_rows and len(table.columns) and not len(table):
        _check_all(contract, table, path)
        where = f" ({path})" if path else ""
        raise VlmtraceError(f"The {name} table{where} has no rows: run {contract.notebook} again.")
    return _check_all(contract, table, path)


def _check_all(contract: Table, table: Stored, path: str = "") -> Stored:
    """Check a table in memory, or one on disk some pairs at a time: no key goes beyond a pair."""
    for batch in batches_of(table):
        contract.check(batch, path)
    return table


def written_by(notebook: str) -> tuple[str, ...]:
    """Names of the tables that a notebook writes.

    >>> written_by("03_select_samples")
    ('selected',)
    """
    return tuple(table.name for table in TABLES.values() if table.notebook == notebook)


def check_columns(
    table: pd.DataFrame | StoredTable, needed: Iterable[str], table_name: str, origin: str = "", own: Iterable[str] = ()
) -> None:
    """Raise one sentence if a column is missing; it names a column that is spelled alike, if there is one.

    Args:
        table: any table
        needed: names of the columns that must be there
        table_name: what the sentence calls the table; of one of the contract, its columns are known not to be
            misspelled ones
        origin: where the table comes from, such as a file's path; empty: nothing is said of it
        own: further names that columns of the table rightly have

    Raises:
        VlmtraceError: a column is missing

    >>> check_columns(pd.DataFrame({"sample": ["a"]}), ["sample_id"], "pairs")
    Traceback (most recent call last):
    ...
    vlmtrace.core.errors.VlmtraceError: The pairs table has no column 'sample_id': rename 'sample'.
    """
    known = TABLES[table_name].columns if table_name in TABLES else ()
    require_columns(table, needed, table_name, origin, [*own, *(column.name for column in known)])


def validate_pairs(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs unchanged if they keep the contract.

    Args:
        pairs: any table with the columns of `pairs`; further columns are welcome

    Returns:
        the same table

    Raises:
        VlmtraceError: a column is missing or of another kind, a sample_id stands twice, a text is missing or empty,
            there is no row, or lists of images do not agree. One sentence names the column and the row
    """
    check_single_columns(pairs)
    return check_image_lists(_validate(pairs, PAIRS))


def validate_questions(questions: pd.DataFrame) -> pd.DataFrame:
    """Return the questions unchanged if they keep the contract.

    Args:
        questions: any table with the columns sample_id, category, image and prompt

    Returns:
        the same table

    Raises:
        VlmtraceError: as `validate_pairs`
    """
    return _validate(questions, QUESTIONS)


def _validate(table: pd.DataFrame, contract: Table) -> pd.DataFrame:
    check_cells(table, contract.name)
    check_columns(table, contract.required, contract.name)
    if table.empty:
        raise VlmtraceError(
            f"The {contract.name} table has no rows: {_REMEDIES[contract.name]}, or relax the selection."
        )
    repeated = table["sample_id"][table["sample_id"].duplicated()]
    if len(repeated):
        raise VlmtraceError(
            f"The {contract.name} table holds sample_id {repeated.iloc[0]!r} more than once ({len(repeated)} rows too "
            "many): give every row its own."
        )
    contract.check(table)
    for name in contract.required:
        values = table[name]
        empty = values.isna()
        if contract.column(name).kind == "text":
            empty |= values.astype(str).str.strip() == ""
        if empty.any():
            row = table.loc[empty, "sample_id"].iloc[0]
            raise VlmtraceError(f"The {contract.name} table's column {name!r}, row {row!r}, is empty: fill it in.")
    return table


def check_table(table: Stored, columns: Iterable[str], table_name: str) -> Stored:
    """Return a table that a figure is to draw.

    Args:
        table: the table
        columns: names of those that the figure needs
        table_name: what the sentence calls the table

    Returns:
        the same table

    Raises:
        VlmtraceError: a column is missing, or there is no row
    """
    check_columns(table, columns, table_name)
    if table.empty:
        raise VlmtraceError(f"The {table_name} table has no rows: there is nothing to draw.")
    return table


def pick(table: pd.DataFrame, table_name: str, **choices: object) -> pd.DataFrame:
    """The rows of a table that have the chosen values.

    Args:
        table: the table
        table_name: what the sentence calls the table
        choices: column → value; None stands for the only value there is

    Returns:
        those rows, with their index

    Raises:
        VlmtraceError: a column is missing, a value does not occur, or None leaves several to choose from
    """
    check_table(table, choices, table_name)
    for column, choice in choices.items():
        known = list(table[column].unique())
        if choice is None and len(known) > 1:
            raise VlmtraceError(
                f"The {table_name} table holds several values of {column}: choose one of {', '.join(map(str, known))}."
            )
        if choice is not None:
            one_of(choice, known, column)  # type: ignore[arg-type]
            table = table[table[column] == choice]
    return table
