from .cluster.connection import Connection, connect
from .report import write_report
from .runs import Run, Stage, open_run
from .stored_parts import joined

__all__ = [
    "Connection",
    "Run",
    "Stage",
    "connect",
    "joined",
    "open_run",
    "write_report",
]
