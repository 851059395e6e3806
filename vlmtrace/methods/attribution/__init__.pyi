from .figures import attribution_scatter
from .gradients import attribute_heads, attribute_modules, ranking_agreement
from .sentences import describe_agreement, describe_spot_checks
from .spot_checks import spot_check

__all__ = [
    "attribute_heads",
    "attribute_modules",
    "attribution_scatter",
    "describe_agreement",
    "describe_spot_checks",
    "ranking_agreement",
    "spot_check",
]
