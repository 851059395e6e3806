from .calls import measure_calls
from .random_models import random_llava

__all__ = [
    "measure_calls",
    "random_llava",
]
