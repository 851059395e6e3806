from .connect import Connection, connect

__all__ = [
    "Connection",
    "connect",
]
