from .example import Example
from .session import Session
from .style import save_figure
from .view import View
from .wording import readable

__all__ = [
    "Example",
    "Session",
    "View",
    "readable",
    "save_figure",
]
