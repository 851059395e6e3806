"""The contract as a page of the documentation."""

from __future__ import annotations

from vlmtrace.core.schema.checks import TABLES
from vlmtrace.core.schema.columns import Column, Table


def tables_markdown() -> str:
    """One section for each table of the contract, in Markdown.

    Returns:
        for each table a heading, what one row is, where it lies and which notebook writes it, and a table of its
        columns: name, type, unit, meaning
    """
    return "\n".join(_section(table) for table in TABLES.values())


def _section(table: Table) -> str:
    lines = [f"## {table.name}", "", table.meaning, ""]
    if table.notebook:
        lines += [f"Written by notebook {table.notebook} to `{table.path}`.", ""]
    if table.unless:
        lines += [f"The file has neither columns nor rows if {table.unless}.", ""]
    lines += ["| column | type | unit | meaning |", "| --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(_cells(column))} |" for column in table.columns]
    return "\n".join([*lines, ""])


def _cells(column: Column) -> list[str]:
    notes = ["optional"] if column.optional else []
    if column.missing:
        notes.append(f"missing: {column.missing.removeprefix('always: ')}")
    meaning = column.meaning + (f" ({'; '.join(notes)})" if notes else "")
    return [f"`{column.name}`", column.kind, column.unit, meaning.replace("|", "\\|")]
