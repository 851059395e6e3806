from .circuit_run import run_circuits
from .curves import faithfulness_means, faithfulness_summary
from .faithfulness import circuit_sizes, faithfulness_table, faithfulness_tables, subset_table
from .figures import faithfulness_curves, head_map, universal_head_table
from .heads import head_table, notice_rule, rank_heads
from .power import detectable_effect
from .search import smallest_set
from .sentences import describe_circuits, describe_heads, describe_new_pairs
from .universal import effect_size_sensitivity, one_sign_heads, universal_heads, universality
from .verdicts import circuit_verdicts

__all__ = [
    "circuit_sizes",
    "circuit_verdicts",
    "describe_circuits",
    "describe_heads",
    "describe_new_pairs",
    "detectable_effect",
    "effect_size_sensitivity",
    "faithfulness_curves",
    "faithfulness_means",
    "faithfulness_summary",
    "faithfulness_table",
    "faithfulness_tables",
    "head_map",
    "head_table",
    "notice_rule",
    "one_sign_heads",
    "rank_heads",
    "run_circuits",
    "smallest_set",
    "subset_table",
    "universal_head_table",
    "universal_heads",
    "universality",
]
