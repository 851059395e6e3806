from .example import Example
from .session import Session
from .style import save_figure
from .view import View

__all__ = [
    "Example",
    "Session",
    "View",
    "save_figure",
]
