"""`vt.connect`: the connection to a cluster that `Stage.resume` finds open, in a notebook and under make."""

from __future__ import annotations

import atexit
import contextlib
import html
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline.cluster.credentials import Credentials, check_extra
from vlmtrace.pipeline.cluster.options import Options, Where, read_options, read_where

if TYPE_CHECKING:
    from vlmtrace.pipeline.cluster.start import Cluster

#: Tells a kernel of the cluster that the command line has started: an address and the files of the certificate.
HANDED_ON = "VLMTRACE_CLUSTER_OPEN"

#: Seconds that a scheduler may take to answer.
ANSWER = 30

#: Workers of a Slurm cluster that may refuse in a row before it is taken for the fault of all: new ones come from
#: other nodes.
REFUSALS = 3


class Connection:
    """An open connection to a cluster, made by `connect`. It ends with `close`, or as a context manager.

    Attributes:
        where: what was connected to, such as "local:4"
        client: dask's client
        dashboard: the address of the cluster's web page; "": it has none
        device: that workers use; "": the kind that the notebook's model is on
        refusals: workers that may refuse a computation, if none is left, before it is taken for the fault of all
    """

    @checked
    def __init__(
        self,
        where: str,
        address: str,
        credentials: Credentials,
        options: Options,
        refusals: int,
        dashboard: str = "",
        cluster: Cluster | None = None,
    ):
        self.where, self.device, self.refusals, self.cluster = where, options.device, refusals, cluster
        self.wait = 0 if cluster is not None else options.wait  # its own cluster says by itself what it waits for
        self.client = _client(address, credentials)
        self.dashboard = dashboard
        self.was_open = False  # whether `connect` gave it out a second time
        self._blocks: list[bool] = []  # for each with statement that is entered, whether it found it open

    def __repr__(self) -> str:
        shown = f", dashboard {self.dashboard}" if self.dashboard else ""
        return f"<Connection to {self.where}{shown}>"

    def _repr_html_(self) -> str:
        link = html.escape(self.dashboard, quote=True)
        shown = f' <a href="{link}" target="_blank" rel="noopener">Dashboard: {link}</a>' if link else ""
        return f"<p>Connected to {html.escape(self.where)}.{shown}</p>"

    def __enter__(self) -> Connection:
        self._blocks.append(self.was_open)
        self.was_open = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._blocks.pop():  # who found it open leaves it open
            self.close()

    @property
    def is_open(self) -> bool:
        """Whether the scheduler can be reached."""
        return self.client.status in ("running", "connecting")

    @checked
    def close(self) -> None:
        """End the connection, and the cluster where `connect` has started it. A second call does nothing."""
        if _OPEN.get("connection") is self:
            _OPEN.clear()
        atexit.unregister(self.close)
        with contextlib.suppress(Exception):  # a scheduler that is gone
            self.client.close(timeout=10)
        if self.cluster is not None:
            self.cluster.close()
            self.cluster = None


#: The connection of this process, and what it was made from.
_OPEN: dict[str, Any] = {}


@checked
def connect(where: str, config: str | Path | Mapping[str, Any] | None = None) -> Connection:
    """Connect to a cluster: from here on `Stage.resume` computes its parts there.

    A worker loads the model once, computes one part at a time and writes the file that resuming finds, so that all of
    them must see the same data folder. Tables are the same wherever they are computed (docs/cluster.md says what that
    means for GPUs).

    Args:
        where: "local:4" for four workers on this machine, each with one of its GPUs if there are any; "slurm" for jobs
            of Slurm; or the address of a dask scheduler that runs, as in "tcp://host:8786" or "tls://host:8786"
        config: options by their names, or a file of YAML with them: partition, walltime, memory, …; see
            docs/cluster.md

    Returns:
        the connection; close it, or use it in a with statement. One that is open to the same cluster is returned again,
        and a with statement that found it so leaves it open

    Raises:
        VlmtraceError: the extra `cluster` is not installed, an option has no such value, or the cluster cannot be
            started or does not answer

    Example:
        >>> import vlmtrace as vt
        >>> with vt.connect("local:1", {"dashboard": "no"}) as connection:
        ...     connection
        <Connection to local:1>
    """
    place = read_where(where)
    check_extra()
    options = read_options(config, place)
    before = _OPEN.get("connection")
    if before is not None:
        # A cell that is run again finds what it has made; another cluster replaces the first.
        if before.is_open and _OPEN.get("made_from") == (where, options):
            before.was_open = True
            return before
        if place.kind != "scheduler":  # two clusters of one's own at a time would share the machine
            before.close()
    connection = _connect(where, place, options)
    if before is not None:
        before.close()
    if connection.dashboard:
        print(f"Dashboard of {where}: {connection.dashboard}")
    _OPEN.update(connection=connection, made_from=(where, options))
    atexit.register(connection.close)
    return connection


def current() -> Connection | None:
    """The connection that is open in this process, or that the command line hands on; None: there is none."""
    connection = _OPEN.get("connection")
    if connection is None and os.environ.get(HANDED_ON):
        given = json.loads(os.environ[HANDED_ON])
        options = Options(device=given["device"], wait=given["wait"])
        connection = Connection(
            given["where"],
            given["address"],
            Credentials(given["files"]),
            options,
            given["refusals"],
            given["dashboard"],
        )
        connection.wait = given["wait"]
        _OPEN.update(connection=connection)
        atexit.register(connection.close)
    return connection


@contextlib.contextmanager
def shared_cluster(where: str, config: str, device: str) -> Iterator[None]:
    """Start a cluster for the kernels of this process, which find it in their environment; nothing if `where` is "".

    Args:
        where: as `connect` takes it; "": none
        config: a file of YAML; "": none
        device: that the kernels' models are on
    """
    if not where:
        yield
        return
    place = read_where(where)
    check_extra()
    options = read_options(config, place)
    with contextlib.closing(_connect(where, place, options, device)) as connection:
        started = connection.cluster
        files = started.credentials.files if started is not None else dict(options.tls)
        address = started.address if started is not None else place.address
        given = {
            "where": where,
            "address": address,
            "files": files,
            "device": options.device,
            "wait": 0 if started is not None else options.wait,
            "refusals": connection.refusals,
            "dashboard": connection.dashboard,
        }
        click.echo(f"Cluster {where}" + (f", dashboard {connection.dashboard}" if connection.dashboard else ""))
        before = os.environ.get(HANDED_ON)
        os.environ[HANDED_ON] = json.dumps(given)
        try:
            yield
        finally:
            os.environ.pop(HANDED_ON, None)
            if before is not None:
                os.environ[HANDED_ON] = before


def check_cluster(where: str, config: str) -> None:
    """Raise a sentence if CLUSTER or CLUSTER_CONFIG cannot be used; nothing is started."""
    if not where:
        if config:
            raise VlmtraceError(f"CLUSTER_CONFIG={config[:200]} is for a cluster, and CLUSTER is empty: name one.")
        return
    place = read_where(where)
    check_extra()
    read_options(config, place)


def _connect(where: str, place: Where, options: Options, device: str = "") -> Connection:
    if place.kind == "scheduler":
        connection = Connection(where, place.address, Credentials(options.tls), options, refusals=1)
        connection.dashboard = _dashboard_of(connection.client)
        return connection
    from vlmtrace.pipeline.cluster.start import start_cluster

    cluster = start_cluster(place, options, device)
    refusals = place.workers if place.kind == "local" else REFUSALS
    try:
        return Connection(
            where, cluster.address, cluster.credentials, options, refusals, cluster.dashboard, cluster=cluster
        )
    except BaseException:
        cluster.close()
        raise


def _client(address: str, credentials: Credentials) -> Any:
    from distributed import Client

    from vlmtrace.pipeline.cluster.start import hush

    try:
        hush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about versions, which each worker compares by itself
            return Client(address, security=credentials.security(), set_as_default=False, timeout=ANSWER)
    except Exception as error:  # of sockets, of TLS, of dask's own handshake
        line = " ".join(str(error).split())[:200] or type(error).__name__
        raise VlmtraceError(
            f"No scheduler answers at {address} ({line}): start one (dask scheduler), or correct CLUSTER or its tls."
        ) from error


def _dashboard_of(client: Any) -> str:
    """The web page of a scheduler that was not started here."""
    with contextlib.suppress(Exception):
        if client.scheduler_info()["services"].get("dashboard"):
            return str(client.dashboard_link)
    return ""
