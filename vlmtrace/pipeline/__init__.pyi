from .report import write_report
from .runs import Run, Stage, open_run

__all__ = [
    "Run",
    "Stage",
    "open_run",
    "write_report",
]
