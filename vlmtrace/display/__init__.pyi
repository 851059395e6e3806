from .example import Example
from .selection import Selection
from .session import Patched, Session
from .style import save_figure
from .view import View
from .wording import readable

__all__ = [
    "Example",
    "Patched",
    "Selection",
    "Session",
    "View",
    "readable",
    "save_figure",
]
