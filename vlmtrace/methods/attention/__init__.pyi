from .attention_weights import has_masks, head_attention, head_functions
from .explorers import attention_explorer, image_attention
from .figures import attention_gallery, attention_overlay, function_scores
from .sentences import describe_functions
from .view import Attention

__all__ = [
    "Attention",
    "attention_explorer",
    "attention_gallery",
    "attention_overlay",
    "describe_functions",
    "function_scores",
    "has_masks",
    "head_attention",
    "head_functions",
    "image_attention",
]
