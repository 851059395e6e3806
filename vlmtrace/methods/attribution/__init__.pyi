from .figures import attribution_scatter
from .gradients import attribute_heads, attribute_modules, ranking_agreement
from .sentences import describe_agreement

__all__ = [
    "attribute_heads",
    "attribute_modules",
    "attribution_scatter",
    "describe_agreement",
    "ranking_agreement",
]
