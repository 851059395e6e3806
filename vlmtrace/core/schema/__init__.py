"""The table contract: every table that a run writes, with its columns, and the checks of it.

columns           what a column and a table of the contract are
pair_tables       notebooks 01 to 03: pairs and what the model answers; and the questions that 07 and 08 read
effect_tables     notebooks 04 to 06: effects of patching, and what they say about heads and circuits
question_tables   notebooks 07 and 08: causal tracing and the visual lens
edge_tables       edges, and circuits made of them
prior_tables      notebooks 11 and 15: what an answer owes to the image and to the words
image_lists       the images of a prompt that asks about several
cells             what no table may hold
checks            all tables by name, and the checks that fail with one sentence
markdown          the contract as a page of the documentation

Columns may be added, but none is renamed or dropped without a line in CHANGELOG.md.
"""

from vlmtrace.core.schema.cells import MAX_COLUMNS, check_cells, is_writable
from vlmtrace.core.schema.checks import (
    TABLES,
    check_columns,
    check_read,
    check_table,
    check_written,
    pick,
    validate_pairs,
    validate_questions,
    written_by,
)
from vlmtrace.core.schema.columns import Column, Table
from vlmtrace.core.schema.effect_tables import CELL, HEAD
from vlmtrace.core.schema.image_lists import IMAGE_LISTS, MASK_LISTS, changed_place, list_problem, listed, place_of
from vlmtrace.core.schema.markdown import tables_markdown
from vlmtrace.core.schema.pair_tables import SAME_PROMPTS, UNIT

__all__ = [
    "CELL",
    "HEAD",
    "IMAGE_LISTS",
    "MASK_LISTS",
    "MAX_COLUMNS",
    "SAME_PROMPTS",
    "TABLES",
    "UNIT",
    "Column",
    "Table",
    "changed_place",
    "check_cells",
    "check_columns",
    "check_read",
    "check_table",
    "check_written",
    "is_writable",
    "list_problem",
    "listed",
    "pick",
    "place_of",
    "tables_markdown",
    "validate_pairs",
    "validate_questions",
    "written_by",
]
