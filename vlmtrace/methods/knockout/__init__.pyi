from .attention_knockout import knock_out_attention, replace_image_tokens
from .figures import knockout_effects
from .sentences import describe_knockouts

__all__ = [
    "describe_knockouts",
    "knock_out_attention",
    "knockout_effects",
    "replace_image_tokens",
]
