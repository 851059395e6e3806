"""A small run of the real pipeline, killed at random events and times until it is done; nothing may be lost.

After every kill all files of the run must be whole. When the run is done, its tables must be those of an undisturbed
run, byte for byte.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
from torture.outcome import HANG, RIGHT, SENTENCE, TRACEBACK, WRONG, Tally

from vlmtrace.core import paths

#: The run: as few pairs as leave something to discover and something to verify.
COMMAND = ["all", "--tasks", "rendered_states", "--samples", "12", "--run", "small"]

#: Kills this very process at the n-th time that a file of the run is opened for writing, renamed or removed.
SITECUSTOMIZE = """
import os, signal, sys
left, runs = int(os.environ.get("TORTURE_EVENTS", "0")), os.environ.get("TORTURE_RUNS", "")

def watch(event, arguments):
    global left
    known = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
    if left and event in known and str(arguments[0]).startswith(runs):
        if event != "open" or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

if left and runs:
    sys.addaudithook(watch)
"""

#: Seconds that an undisturbed run may take at most.
PATIENCE = 600.0


class KilledRuns:
    """A folder in which the same run is made again and again, with kills.

    Args:
        home: what `VLMTRACE_HOME` is to be
        chance: draws when to kill
    """

    kind = "kill"

    def __init__(self, home: Path, chance: random.Random):
        self.home, self.chance = home, chance
        (home / "data").mkdir(parents=True)
        (home / "data" / "models").symlink_to(paths.MODELS)
        (home / "watch").mkdir()
        (home / "watch" / "sitecustomize.py").write_text(SITECUSTOMIZE)
        self.run = home / "data" / "runs" / "small"

    def kill(self, n: int, until: float, tally: Tally) -> None:
        """Make the run, killed at most n times, and again if it gets done; stop when the time is over."""
        started = time.monotonic()
        if self._start(0, PATIENCE) is not None:
            tally.note(self.kind, WRONG, f"an undisturbed run does not finish: {self.last}")
            return
        whole = time.monotonic() - started
        expected = self.tables()
        shutil.rmtree(self.run)
        while n > 0 and time.monotonic() + whole < until:
            # Half of the kills hit one process at an event, half hit all of them at a time.
            events = self.chance.randint(1, 120) if self.chance.random() < 0.5 else 0
            seconds = PATIENCE if events else self.chance.uniform(0.5, 0.6 * whole)
            code = self._start(events, seconds)
            problem = self._broken()
            if problem:
                tally.note(self.kind, WRONG, f"after {self.how}: {problem}")
                shutil.rmtree(self.run, ignore_errors=True)
                continue
            if code is None:  # it was done before
                self._compare(expected, tally)
                continue
            n -= 1
            tally.note(self.kind, *self._said(code))
        if self.run.exists():
            if self._start(0, PATIENCE) is not None:
                tally.note(self.kind, WRONG, f"the run does not go on after {self.how}: {self.last}")
            else:
                self._compare(expected, tally)

    def _start(self, events: int, seconds: float) -> int | None:
        """Go on with the run; None: it is done. Otherwise how its first process ended."""
        self.how = f"a kill at event {events}" if events else f"a kill after {seconds:.1f} s"
        environment = os.environ | {
            "VLMTRACE_HOME": str(self.home), "OMP_NUM_THREADS": "1", "TORTURE_EVENTS": str(events),
            "TORTURE_RUNS": str(self.home / "data" / "runs"),
            "PYTHONPATH": os.pathsep.join([str(self.home / "watch"), str(paths.ROOT)]),
        }  # fmt: skip
        log = self.home / "log"
        with open(log, "wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "vlmtrace", *COMMAND], env=environment, stdout=stream, stderr=stream,
                start_new_session=True, cwd=paths.ROOT,
            )  # fmt: skip
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                if seconds == PATIENCE:
                    self.how += " (a hang)"
                os.killpg(process.pid, signal.SIGKILL)
                code = process.wait()
        self.last = log.read_text(errors="replace")
        return code or None

    def _said(self, code: int) -> tuple[str, str]:
        """How a killed start counts: one that was not killed itself, but lost a kernel, must say so in a sentence."""
        if "a hang" in self.how:
            return HANG, f"after {self.how}"
        if code < 0:
            return RIGHT, self.how
        said = [line for line in self.last.splitlines() if line.startswith("Error: ")]
        if "Traceback" in self.last or not said:
            return TRACEBACK, f"after {self.how}: {self.last[-600:]}"
        return SENTENCE, said[-1]

    def _broken(self) -> str | None:
        """Why a file of the run is not whole; files that are being written have names of their own."""
        for path in sorted(self.run.rglob("*")):
            if not path.is_file() or path.name.startswith("."):
                continue
            try:
                if path.suffix == ".parquet":
                    pyarrow.parquet.read_table(path)
                elif path.suffix in (".json", ".ipynb"):
                    json.loads(path.read_text(encoding="utf-8"))
                elif path.suffix in (".png", ".pdf", ".html") and path.stat().st_size == 0:
                    return f"{path.name} is empty"
            except Exception as error:
                return f"{path.relative_to(self.run)} is not whole: {error}"
        return None

    def tables(self) -> dict[str, bytes]:
        """Every table of the run, by its path."""
        found = sorted(path for path in self.run.rglob("*.parquet") if ".parts" not in path.parts)
        return {path.relative_to(self.run).as_posix(): path.read_bytes() for path in found}

    def _compare(self, expected: dict[str, bytes], tally: Tally) -> None:
        found = self.tables()
        other = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        report = self.run / "report" / "index.html"
        if other or not report.is_file():
            tally.note(self.kind, WRONG, f"after kills, these are not as in an undisturbed run: {other or report.name}")
        else:
            tally.note("killed run", RIGHT, "all tables are those of an undisturbed run")
        shutil.rmtree(self.run)
