"""What the user says about a cluster: where it is, and its options, each checked with a sentence."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.paths import from_home
from vlmtrace.pipeline.checks import check_number, check_text

#: More workers than any lab has, and longer than anybody waits (seconds).
MOST_WORKERS, LONGEST_WAIT = 10_000, 10**6

#: A web page for this machine alone, at the port that dask's users expect, or at the next that is free.
DASHBOARD = "127.0.0.1:8787"


@dataclass(frozen=True)
class Where:
    """Where a cluster is: `local:4`, `slurm`, or the address of a scheduler that runs.

    Attributes:
        kind: "local", "slurm" or "scheduler"
        workers: of a local cluster, their number
        address: of a scheduler
    """

    kind: str
    workers: int = 0
    address: str = ""


@dataclass(frozen=True)
class Options:
    """What CLUSTER_CONFIG says.

    Attributes:
        partition: of Slurm
        account: of Slurm
        walltime: of one job, as Slurm writes it
        gres: what one job is given, such as "gpu:1"
        memory: of one worker, such as "64GB"
        cores: of one worker
        fewest: workers that are kept
        most: workers that are asked for at most
        prologue: lines of shell that a job runs before its worker
        directives: further options of sbatch
        skip: directives that are left out where a site does not take them, such as "--mem"
        interface: the network interface of scheduler and workers
        python: the Python that runs the workers
        logs: the folder of the jobs' output
        scratch: a folder on each worker's own disk
        dashboard: host and port of the web page; "no": none
        device: of the workers; "": that of the notebook's model
        wait: seconds without a worker after which it is said
        tls: the files `ca`, `cert` and `key`, for a scheduler at tls://
    """

    partition: str = ""
    account: str = ""
    walltime: str = "01:00:00"
    gres: str = ""
    memory: str = ""
    cores: int = 1
    fewest: int = 0
    most: int = 1
    prologue: tuple[str, ...] = ()
    directives: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    interface: str = ""
    python: str = ""
    logs: str = ""
    scratch: str = ""
    dashboard: str = DASHBOARD
    device: str = ""
    wait: int = 60
    tls: Mapping[str, str] = field(default_factory=dict)


def read_where(text: str) -> Where:
    """What CLUSTER means.

    Args:
        text: "local:4", "slurm", "tcp://host:port" or "tls://host:port"

    Raises:
        VlmtraceError: it means nothing

    >>> read_where("local:4")
    Where(kind='local', workers=4, address='')
    """
    check_text("CLUSTER", text)
    if text == "slurm":
        return Where("slurm")
    name, _, rest = text.partition(":")
    if name == "local" and re.fullmatch("[0-9]{1,9}", rest):
        return Where("local", check_number("CLUSTER: the number of workers", rest, 1, MOST_WORKERS))
    if name in ("tcp", "tls") and re.fullmatch(r"//(\[[0-9a-fA-F:.]+\]|[\w.-]+):[0-9]{1,5}", rest):
        check_number("CLUSTER: the port", rest.rpartition(":")[2], 1, 65535)
        return Where("scheduler", address=text)
    raise VlmtraceError(
        f"CLUSTER={text[:80]!r} is no cluster: write local:4 (four workers on this machine), slurm, or the address of "
        "a scheduler that runs, such as tcp://host:8786."
    )


def read_options(config: str | Path | Mapping[str, Any] | None, where: Where) -> Options:
    """The options of a cluster.

    Args:
        config: a file of YAML, or what it would hold; None or "": none
        where: the cluster that they are for

    Raises:
        VlmtraceError: the file cannot be read, an option is unknown, is for another cluster or has no such value
    """
    origin, given = _given(config)
    found: dict[str, Any] = {}
    for name, value in given.items():
        one_of(str(name)[:80], _READERS, f"option in {origin}")
        kinds, read = _READERS[name]
        if where.kind not in kinds:
            words = " or ".join(_KINDS[kind] for kind in kinds)
            raise VlmtraceError(f"{origin}: {name} is for {words}: leave it out.")
        found |= read(f"{origin}: {name}", value)
    if where.kind == "slurm" and not found.get("memory"):
        raise VlmtraceError(f"{origin}: memory is missing: say what one worker needs, such as memory: 16GB.")
    return Options(**found)


def _given(config: str | Path | Mapping[str, Any] | None) -> tuple[str, Mapping[str, Any]]:
    """Where the options come from, for sentences, and the options with their values as text."""
    if config is None or config == "":
        return "CLUSTER_CONFIG", {}
    if isinstance(config, Mapping):
        return "config", _as_text(config)
    import yaml

    path = from_home(config)
    try:
        # The base loader makes text, lists and mappings only: 1:00:00 is no number of seconds, and no object is made.
        text = path.read_text(encoding="utf-8-sig")
        _refuse_twice(yaml.compose(text, Loader=yaml.BaseLoader), path)
        content = yaml.BaseLoader(text).get_single_data()
    except OSError as error:
        raise VlmtraceError(f"CLUSTER_CONFIG={path} cannot be read ({error.strerror or error}): correct it.") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())[:200]
        raise VlmtraceError(f"CLUSTER_CONFIG={path} is not valid YAML ({line}): correct it.") from error
    if not isinstance(content, (dict, type(None))) and content != "":
        raise VlmtraceError(f"CLUSTER_CONFIG={path} holds no options: write lines such as partition: gpu.")
    return str(path), content or {}


def _refuse_twice(node: Any, path: Path) -> None:
    """Refuse an option that stands there twice: YAML would silently take the last."""
    seen: set[str] = set()
    for key, _ in node.value if getattr(node, "id", "") == "mapping" else ():
        name, line = str(key.value), key.start_mark.line + 1
        if name in seen:
            raise VlmtraceError(f"CLUSTER_CONFIG={path}: {name} stands there twice (again in line {line}): keep one.")
        seen.add(name)


def _as_text(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _as_text(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_text(entry) for entry in value]
    return "" if value is None else str(value)


def _text(pattern: str, such_as: str) -> Callable[[str, Any], str]:
    """A reader of text on one line that matches a pattern."""

    def read(name: str, value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise VlmtraceError(f"{name} cannot be {_shown(value)}: write for instance {such_as}.")
        return value

    return read


def _lines(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.splitlines()
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        raise VlmtraceError(f"{name} cannot be {_shown(value)}: write a list of lines.")
    for line in value:
        check_text(name, line.replace("\t", " "))
    return tuple(value)


def _directives(name: str, value: Any) -> tuple[str, ...]:
    lines = _lines(name, value)
    for line in lines:
        if not line.startswith("-"):
            raise VlmtraceError(f"{name}: {_shown(line)} is no option of sbatch: write for instance --exclude=node17.")
    return lines


def _path(name: str, value: Any) -> Path:
    return from_home(_text(r"[^\x00-\x1f\x7f\s'\"]{1,500}", "/scratch/me (a path without blanks)")(name, value))


def _folder(name: str, value: Any) -> str:
    """A folder as seen from where the command was typed: notebooks and jobs run elsewhere."""
    return str(_path(name, value).absolute())


def _program(name: str, value: Any) -> str:
    """A path as seen from where the command was typed, or a name that a worker's own PATH explains."""
    path = _path(name, value)
    return str(path.absolute()) if len(path.parts) > 1 else str(path)


def _whole(least: int, most: int) -> Callable[[str, Any], int]:
    def read(name: str, value: Any) -> int:
        return check_number(name, value if isinstance(value, str) else _shown(value), least, most)

    return read


def _workers(name: str, value: Any) -> dict[str, int]:
    if isinstance(value, Mapping):
        for key in value:
            one_of(str(key)[:80], ("min", "max"), f"entry of {name}")
        least = check_number(f"{name}: min", str(value.get("min", "0")), 0, MOST_WORKERS)
        most = check_number(f"{name}: max", str(value.get("max", max(least, 1))), 1, MOST_WORKERS)
        if most < least:
            raise VlmtraceError(f"{name}: max={most} is less than min={least}: correct it.")
        return {"fewest": least, "most": most}
    number = _whole(1, MOST_WORKERS)(name, value)
    return {"fewest": 0, "most": number}


def _dashboard(name: str, value: Any) -> str:
    if value == "no":
        return value
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        host = ""
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise VlmtraceError(
            f"{name} cannot be {_shown(value)}: write an address and a port, such as {DASHBOARD}, or no."
        )
    return value


def _tls(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or set(value) != {"ca", "cert", "key"}:
        raise VlmtraceError(f"{name} must name three files, ca, cert and key: correct it.")
    found = {key: from_home(str(path)) for key, path in value.items()}
    for key, path in found.items():
        if not path.is_file():
            raise VlmtraceError(f"{name}: {key}: there is no file {path}: correct it.")
    return {key: str(path.resolve()) for key, path in found.items()}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _one(name: str, read: Callable[[str, Any], Any]) -> Callable[[str, Any], dict[str, Any]]:
    return lambda label, value: {name: read(label, value)}


_KINDS = {"local": "CLUSTER=local:N", "slurm": "CLUSTER=slurm", "scheduler": "a scheduler that runs already"}
_STARTED, _SLURM, _ALL = ("local", "slurm"), ("slurm",), tuple(_KINDS)
_NAME = r"[\w.,:+/@=-]{1,200}"

#: Option -> the clusters that it is for, and how it is read.
_READERS: dict[str, tuple[tuple[str, ...], Callable[[str, Any], dict[str, Any]]]] = {
    "partition": (_SLURM, _one("partition", _text(_NAME, "gpu"))),
    "account": (_SLURM, _one("account", _text(_NAME, "my-project"))),
    "walltime": (
        _SLURM,
        _one("walltime", _text(r"(?=.*[1-9])([0-9]{1,3}-)?[0-9]{1,3}(:[0-9]{2}){1,2}", "04:00:00 or 1-12:00:00")),
    ),
    "gres": (_SLURM, _one("gres", _text(_NAME, "gpu:1"))),
    "memory": (_STARTED, _one("memory", _text(r"(?=.*[1-9])[0-9]+(\.[0-9]+)? ?[kKMGT]i?B?", "64GB"))),
    "cores": (_SLURM, _one("cores", _whole(1, 4096))),
    "workers": (_SLURM, _workers),
    "prologue": (_SLURM, _one("prologue", _lines)),
    "directives": (_SLURM, _one("directives", _directives)),
    "skip": (_SLURM, _one("skip", _lines)),
    "interface": (_SLURM, _one("interface", _text(r"[\w.@-]{1,40}", "ib0"))),
    "python": (_SLURM, _one("python", _program)),
    "logs": (_SLURM, _one("logs", _folder)),
    "scratch": (_STARTED, _one("scratch", _folder)),
    "dashboard": (_STARTED, _one("dashboard", _dashboard)),
    "device": (_ALL, _one("device", _text(r"cpu|cuda|mps", "cuda"))),
    "wait": (_ALL, _one("wait", _whole(1, LONGEST_WAIT))),
    "tls": (("scheduler",), _one("tls", _tls)),
}
