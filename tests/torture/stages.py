"""Stages of a run, as notebooks use them, in a process that is killed at a random event or time, again and again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet
from torture.outcome import HANG, RIGHT, TRACEBACK, WRONG, Tally

import vlmtrace as vt
from vlmtrace.core import paths
from vlmtrace.core.files import read_json
from vlmtrace.pipeline import open_run

#: What counts as an event: a file of the run is opened for writing, renamed or removed, a folder made or removed.
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")

#: Seconds that the stages may take at most.
PATIENCE = 120.0


class KilledStages:
    """A folder in which the same stages are worked on again and again, with kills.

    Args:
        home: where the run lies
        chance: draws when to kill
        model: works on the pairs
        pairs: a pairs table
    """

    kind = "stage kill"

    def __init__(self, home: Path, chance: random.Random, model: vt.VLM, pairs: pd.DataFrame):
        self.home, self.chance, self.model, self.pairs = home, chance, model, pairs
        home.mkdir(parents=True)
        self.log = home / "log"

    def kill(self, n: int, until: float, tally: Tally) -> None:
        """Work on the stages, killed at most n times, and anew whenever they are done; stop when the time is over."""
        started = time.monotonic()
        if self._start(0, PATIENCE) != 0:
            tally.note(self.kind, WRONG, f"undisturbed stages do not finish: {self._words()}")
            return
        whole = time.monotonic() - started
        expected = self._tables()
        shutil.rmtree(self.home / "small")
        while n > 0 and time.monotonic() < until:
            by_event = self.chance.random() < 0.7
            events = self.chance.randint(1, 60) if by_event else 0
            seconds = PATIENCE if by_event else self.chance.uniform(0.0, whole)
            status = self._start(events, seconds)
            how = f"a kill at event {events}" if by_event else f"a kill after {seconds:.2f} s"
            problem = self._broken()
            if problem:
                tally.note(self.kind, WRONG, f"after {how}: {problem}")
                shutil.rmtree(self.home / "small")
            elif os.WIFSIGNALED(status):
                n -= 1
                tally.note(self.kind, HANG if seconds == PATIENCE and not by_event else RIGHT, how)
            elif status != 0:
                tally.note(self.kind, TRACEBACK, f"after kills the stages do not go on: {self._words()}")
                shutil.rmtree(self.home / "small")
            else:
                other = [name for name in expected if self._tables().get(name) != expected[name]]
                tally.note("killed run", WRONG if other else RIGHT, f"not as in an undisturbed run: {other}")
                shutil.rmtree(self.home / "small")

    def _start(self, events: int, seconds: float) -> int:
        """Go on with the stages in a process of its own; how it ended, as os.waitpid says it."""
        process = os.fork()
        if process == 0:
            code = 1
            try:
                with open(self.log, "w") as stream:
                    os.dup2(stream.fileno(), 1)
                    os.dup2(stream.fileno(), 2)
                if events:
                    sys.addaudithook(_killer(events, str(self.home / "small")))
                self._work()
                code = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(code)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                return status
            time.sleep(0.005)
        os.kill(process, signal.SIGKILL)
        return os.waitpid(process, 0)[1]

    def _work(self) -> None:
        paths.RUNS = self.home  # in this process alone
        run = open_run("small")
        for name, task, tables, reads, function in (
            ("01_preprocess", "own", "pairs", None, None),
            ("04_module_patching", "own", "module_patching", "pairs", vt.patch_modules),
            ("05_head_patching", "own", "head_patching", "pairs", vt.patch_heads),
        ):
            key = f"{task}/{name}"
            if key in run.record()["stages"] and run.path(tables, task).is_file():
                continue
            stage = run.stage(name, task, model=self.model, seed=0)
            if function is None:
                stage.finish(**{tables: self.pairs})
                continue
            read = stage.read(reads)
            effects = stage.resume(function, self.model, read, chunk=1, corruption="image")
            stage.finish(**{tables: effects})
            run.remember(key, {"seed": 0})

    def _tables(self) -> dict[str, bytes]:
        folder = self.home / "small" / "own"
        return {path.name: path.read_bytes() for path in sorted(folder.glob("[!.]*.parquet"))}

    def _broken(self) -> str | None:
        """Why a file is not whole; what is being written has a name that begins with a dot."""
        folder = self.home / "small"
        for path in sorted(folder.rglob("*")):
            if not path.is_file() or path.name.startswith("."):
                continue
            try:
                if path.suffix == ".parquet":
                    pyarrow.parquet.read_table(path)
                elif path.suffix == ".json":
                    read_json(path)
            except Exception as error:
                return f"{path.relative_to(folder)} is not whole: {error}"
        return None

    def _words(self) -> str:
        return self.log.read_text(errors="replace")[-600:]


def _killer(events: int, folder: str) -> Any:
    left = events

    def watch(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in EVENTS and str(arguments[0]).startswith(folder):
            writes = (
                isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR) if event == "open" else True
            )
            if writes:
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

    return watch
