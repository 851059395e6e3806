from .attention_knockout import knock_out_attention
from .figures import knockout_effects
from .replacement import replace_image_tokens

__all__ = [
    "knock_out_attention",
    "knockout_effects",
    "replace_image_tokens",
]
