"""The certificate that the members of a cluster know each other by, and the sentence of a missing extra."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import make_folder, refusals_as_sentences

#: What is installed with the extra `cluster`, by the names that are imported.
LIBRARIES = ("distributed", "dask_jobqueue", "bokeh", "cryptography", "yaml")


def check_extra() -> None:
    """Raise a sentence if the libraries of the extra `cluster` are not installed."""
    import importlib

    with interruptions_kept():
        for name in LIBRARIES:
            try:
                importlib.import_module(name)
            except ImportError as error:
                shown = name.replace("_", "-")
                raise VlmtraceError(
                    f"A cluster needs {shown}, which is not installed: run pip install -c constraints.txt -e "
                    "'.[cluster]' in the checkout."
                ) from error


@contextlib.contextmanager
def interruptions_kept() -> Iterator[None]:
    """Let Ctrl-C do after this block what it did before: once imported, dask_jobqueue makes it end the process."""
    if threading.current_thread() is not threading.main_thread():  # here it cannot be changed
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


#: Of temporary folders; the number of the process that made one follows. In the data folder, which machines share, the
#: machine's name stands before it.
PREFIX = "vlmtrace-cluster-"


def remove_leftovers() -> None:
    """Delete the folders of this machine's processes that were killed, as far as they are this user's."""
    for parent, prefix in ((Path(tempfile.gettempdir()), PREFIX), (shared_folder(), f"{socket.gethostname()}-")):
        for folder in parent.glob(f"{glob.escape(prefix)}*-*"):
            process = folder.name.removeprefix(prefix).partition("-")[0]
            if process.isdecimal() and not psutil.pid_exists(int(process)):
                shutil.rmtree(folder, ignore_errors=True)


def shared_folder() -> Path:
    """Where the certificates of clusters over several machines lie."""
    return paths.DATA / "cache" / "clusters"


class Credentials:
    """Three files in a folder that only their owner can read.

    Attributes:
        folder: where they lie; None: they are the user's own, or there are none
        files: `ca`, `cert` and `key` by their paths; empty: messages are not encrypted
    """

    def __init__(self, files: Mapping[str, str], folder: Path | None = None):
        self.files, self.folder = dict(files), folder

    def security(self) -> Any:
        """What dask.distributed takes."""
        from distributed.security import Security

        if not self.files:
            return Security()
        every = {
            f"tls_{role}_{part}": self.files[part]
            for role in ("scheduler", "worker", "client")
            for part in ("cert", "key")
        }
        return Security(tls_ca_file=self.files["ca"], require_encryption=True, **every)

    def remove(self) -> None:
        """Delete the files, if they were made here."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def new_credentials(shared: bool) -> Credentials:
    """A new certificate, signed by itself: who holds it is a member.

    Args:
        shared: whether other machines must be able to read it: then it lies in the data folder, else in a temporary one
    """
    from distributed.security import Security

    made = Security.temporary()
    parts = {"ca": made.tls_ca_file, "cert": made.tls_client_cert, "key": made.tls_client_key}
    remove_leftovers()
    if shared:
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(8)}"
        folder = make_folder(shared_folder()) / name
        with refusals_as_sentences(folder):
            folder.mkdir(mode=0o700)
    else:
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    files = {}
    try:
        for part, content in parts.items():
            path = folder / f"{part}.pem"
            with (
                refusals_as_sentences(path),
                open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file,
            ):
                file.write(content)
            files[part] = str(path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Credentials(files, folder)
