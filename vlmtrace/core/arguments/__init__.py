"""Arguments of public functions: each is what its annotation says, or one sentence says what it must be.

    @checked
    def evaluate(model: VLM, pairs: pd.DataFrame, batch_size: Count = 32) -> pd.DataFrame: ...

    evaluate(model, pairs, batch_size=2.5)
    # VlmtraceError: evaluate: batch_size must be a whole number from 1 to 1,000,000, not 2.5: correct it.

A value is handed on as it is (NumPy's numbers as Python's, a column or array as a list where a list is asked for); no
table or model is copied. That a call has too many arguments or lacks one is left to Python, whose TypeError says it.
Annotations are read when a function is first called, and also those whose names are imported under TYPE_CHECKING only.

decorator     `checked`, and how annotations are read
meanings      what numbers mean: Count, Seed, Share, …
annotations   from an annotation to a kind
kinds         kinds of single values, and what sentences call a value
containers    kinds of lists, tuples and dicts, and of one thing or another
"""

from vlmtrace.core.arguments.decorator import Arguments, checked
from vlmtrace.core.arguments.meanings import (
    Count,
    Natural,
    NonEmpty,
    NotebookParameter,
    NotNegative,
    Positive,
    Probability,
    Seed,
    Share,
)

__all__ = [
    "Arguments",
    "Count",
    "Natural",
    "NonEmpty",
    "NotNegative",
    "NotebookParameter",
    "Positive",
    "Probability",
    "Seed",
    "Share",
    "checked",
]
