from .faithfulness import circuit_claims, circuit_sizes, faithfulness_means, faithfulness_summary, faithfulness_table
from .figures import faithfulness_curves, head_map, universal_head_table
from .heads import head_table, rank_heads, universal_heads

__all__ = [
    "circuit_claims",
    "circuit_sizes",
    "faithfulness_curves",
    "faithfulness_means",
    "faithfulness_summary",
    "faithfulness_table",
    "head_map",
    "head_table",
    "rank_heads",
    "universal_head_table",
    "universal_heads",
]
