from .attention_knockout import knock_out_attention
from .figures import knockout_effects
from .replacement import replace_image_tokens
from .sentences import describe_knockouts

__all__ = [
    "describe_knockouts",
    "knock_out_attention",
    "knockout_effects",
    "replace_image_tokens",
]
