from .cluster.connection import Connection, connect
from .report import write_report
from .runs import Run, open_run
from .stage import Stage
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
