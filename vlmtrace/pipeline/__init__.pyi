from .cluster.connection import Connection, connect
from .report import write_report
from .runs import Run, Stage, open_run

__all__ = [
    "Connection",
    "Run",
    "Stage",
    "connect",
    "open_run",
    "write_report",
]
