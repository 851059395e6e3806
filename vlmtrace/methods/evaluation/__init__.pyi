from .answers import accuracy_table, evaluate
from .figures import accuracy_by_category, pair_gallery, selection_counts
from .selection import USE, eligible, select_samples, selection_table
from .sentences import describe_answers, describe_gaps, describe_selection
from .usable import check_pairs, corruption_table, model_filters, usable_pairs

__all__ = [
    "USE",
    "accuracy_by_category",
    "accuracy_table",
    "check_pairs",
    "corruption_table",
    "describe_answers",
    "describe_gaps",
    "describe_selection",
    "eligible",
    "evaluate",
    "model_filters",
    "pair_gallery",
    "select_samples",
    "selection_counts",
    "selection_table",
    "usable_pairs",
]
