"""Connections that end in time, whatever the server does.

A timeout bounds the wait for a single answer. A server that sends one byte before each of them is over could hold a
connection for days, most easily in the head of its answer.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore

_NOW = threading.local()


@contextlib.contextmanager
def until(deadline: float) -> Iterator[None]:
    """While this is entered, this thread neither reads nor writes after the deadline.

    Args:
        deadline: as time.monotonic() counts
    """
    _NOW.deadline = deadline
    try:
        yield
    finally:
        del _NOW.deadline


class TimeLeft:
    """The time that is left for an image, and whether any server has answered in it.

    Args:
        seconds: from now on
    """

    def __init__(self, seconds: float):
        self.ends = time.monotonic() + seconds
        self.answered = False

    @property
    def is_over(self) -> bool:
        """Whether none is left."""
        return time.monotonic() >= self.ends

    @contextlib.contextmanager
    def standing_still(self, turn: threading.Semaphore) -> Iterator[None]:
        """Enter one's turn; the time until it comes does not count.

        Args:
            turn: what others may hold
        """
        asked = time.monotonic()
        with turn:
            self.ends += time.monotonic() - asked
            yield

    def kept(self) -> contextlib.AbstractContextManager[None]:
        """While this is entered, this thread neither reads nor writes after the time is over."""
        return until(self.ends)


def _left(timeout: float | None, error: type[Exception]) -> float | None:
    deadline = getattr(_NOW, "deadline", None)
    if deadline is None:
        return timeout
    left = deadline - time.monotonic()
    if left <= 0:
        raise error("the time for this image is over")
    return left if timeout is None else min(timeout, left)


class InTime(httpcore.NetworkBackend):
    """Opens connections that keep the deadline of the thread that uses them.

    Args:
        backend: which opens them
    """

    def __init__(self, backend: httpcore.NetworkBackend):
        self.backend = backend

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect as the backend does; the arguments are httpcore's."""
        timeout = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self.backend.connect_tcp(host, port, timeout, local_address, socket_options))

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None
    ) -> httpcore.NetworkStream:
        """Connect as the backend does; the arguments are httpcore's."""
        return _Stream(self.backend.connect_unix_socket(path, timeout, socket_options))

    def sleep(self, seconds: float) -> None:
        """Wait as the backend does.

        Args:
            seconds: how long
        """
        self.backend.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream):
        self.stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.stream.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.stream.write(buffer, _left(timeout, httpcore.WriteTimeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self.stream.start_tls(ssl_context, server_hostname, _left(timeout, httpcore.ConnectTimeout)))

    def close(self) -> None:
        self.stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self.stream.get_extra_info(info)
