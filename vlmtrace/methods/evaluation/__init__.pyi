from .answers import accuracy_table, check_pairs, evaluate, usable_pairs
from .figures import accuracy_by_category, pair_gallery, selection_counts
from .selection import USE, eligible, select_samples, selection_table
from .sentences import describe_answers, describe_gaps, describe_selection

__all__ = [
    "USE",
    "accuracy_by_category",
    "accuracy_table",
    "check_pairs",
    "describe_answers",
    "describe_gaps",
    "describe_selection",
    "eligible",
    "evaluate",
    "pair_gallery",
    "select_samples",
    "selection_counts",
    "selection_table",
    "usable_pairs",
]
