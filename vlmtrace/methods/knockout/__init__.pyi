from .attention_knockout import knock_out_attention, replace_image_tokens
from .figures import knockout_effects

__all__ = [
    "knock_out_attention",
    "knockout_effects",
    "replace_image_tokens",
]
