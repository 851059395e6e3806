"""How the workbench grows: `make bench-scale`.

Two tables. *Effects*: a million and ten million made-up effects of heads through what notebooks 05 and 06 do with
them, each in a process of its own: seconds, processor time and the most memory of the whole process, for tables on
disk (as the notebooks have it) and for whole tables in pandas (as they had it). *Workers*: parts that sleep as a GPU
would compute, through `Stage.resume` on 1 to 64 workers of this machine: which share of the time is the parts' own.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vlmtrace.benchmarks.scale_effects import TASKS, WAYS, make_run, measured
from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import write_json
from vlmtrace.core.progress import progress

#: Stages by what the table calls them.
STAGES = {"05": "notebook 05", "06": "notebook 06", "report": "report"}


def home_with_models(folder: Path) -> Path:
    """A home of its own for runs that are thrown away; the models are this checkout's."""
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "models").symlink_to(paths.MODELS)
    return folder


def bench_effects(sizes: Sequence[int], home: Path, ways: Sequence[str] = WAYS) -> list[dict[str, Any]]:
    """Figures of every number of effects, stage and way.

    Args:
        sizes: numbers of effects
        home: a folder with data/models
        ways: "pandas" (the whole table in memory), "stored" (as the notebooks have it)

    Returns:
        one row per size, stage and way: effects, bytes_per_effect (of the file), stage, way, seconds, cpu_seconds,
        start_bytes, peak_bytes; or failed, why
    """
    rows = []
    for size in progress(sizes, "effects"):
        run = f"effects-{size}"
        n = make_run(size, home, run)
        files = [home / "data" / "runs" / run / task / "head_patching.parquet" for task in TASKS]
        per_effect = sum(file.stat().st_size for file in files) / n
        for stage in ("06", "report", "05"):
            for way in ways if stage != "report" else ways[-1:]:
                if stage == "05":
                    run = f"parts-{size}-{way}"
                    n = make_run(size, home, run, TASKS[:1], with_effects=False)
                    measured("05-parts", way, home, run)
                found = measured(stage, way, home, run)
                rows.append({"effects": n, "bytes_per_effect": per_effect, "stage": stage, "way": way, **found})
        shutil.rmtree(home / "data" / "runs")
    return rows


def render_effects(rows: Sequence[dict[str, Any]]) -> str:
    """The figures as a table for the terminal."""
    lines = [f"{'effects':>12} {'':<12} {'tables':<8} {'seconds':>8} {'cpu':>8} {'peak memory':>12}"]
    for row in rows:
        head = f"{row['effects']:12,} {STAGES[row['stage']]:<12} {row['way']:<8}"
        if "failed" in row:
            lines.append(f"{head} failed: {row['failed']}")
            continue
        peak = f"{row['peak_bytes'] / 2**20:,.0f} MB"
        lines.append(f"{head} {row['seconds']:8.1f} {row['cpu_seconds']:8.1f} {peak:>12}")
    same = _same_results(rows)
    if same is not None:
        lines.append(f"Heads of both ways: {'the same to the last bit' if same else 'DIFFERENT'}.")
    return "\n".join(lines)


def _same_results(rows: Sequence[dict[str, Any]]) -> bool | None:
    digests: dict[tuple[int, str], list[str]] = {}
    for row in rows:
        if "digest" in row:
            digests.setdefault((row["effects"], row["stage"]), []).append(row["digest"])
    several = [found for found in digests.values() if len(found) > 1]
    return all(len(set(found)) == 1 for found in several) if several else None


def bench_workers(
    workers: Sequence[int], part_seconds: Sequence[float], per_worker: int, home: Path
) -> list[dict[str, Any]]:
    """Figures of every number of workers and length of a part; see `scale_workers.efficiency`."""
    environment = {**os.environ, "VLMTRACE_HOME": str(home), "TQDM_DISABLE": "1"}
    rows = []
    for n, seconds in progress([(n, one) for one in part_seconds for n in workers], "workers"):
        command = [sys.executable, "-m", "vlmtrace.benchmarks.scale_workers", "run", str(n), str(seconds)]
        done = subprocess.run([*command, str(per_worker)], env=environment, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise VlmtraceError(f"{' '.join(command[2:])} ended with {done.returncode}: see above.")
        rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
    return rows


def render_workers(rows: Sequence[dict[str, Any]]) -> str:
    """The figures as a table for the terminal."""
    lines = [
        f"{'workers':>8} {'part':>6} {'parts':>6} {'start':>8} {'run':>8} {'efficiency':>11} {'steady':>7} "
        f"{'parts/s':>8} {'notebook':>10} {'scheduler':>10}"
    ]
    for row in rows:
        lines.append(
            f"{row['workers']:8} {row['part_seconds']:5g}s {row['parts']:6} {row['start_seconds']:7.1f}s "
            f"{row['seconds']:7.1f}s {row['efficiency']:11.1%} {row['steady_efficiency']:7.1%} "
            f"{row['parts_per_second']:8.2f} {row['client_cpu_per_part'] * 1e3:7.1f} ms "
            f"{row['scheduler_cpu_per_part'] * 1e3:7.1f} ms"
        )
    lines.append(
        "start: from nothing until every worker has done its first part. efficiency: parts × their seconds / workers "
        "over the seconds of the run; steady: from the first part's begin to the last one's end. notebook, scheduler: "
        "processor time a part."
    )
    return "\n".join(lines)


@click.command()
@click.option("--effects", default="1000000,10000000", show_default=True, help="Numbers of effects; empty: none.")
@click.option("--workers", default="1,2,4,8,16,32,64", show_default=True, help="Numbers of workers; empty: none.")
@click.option("--part-seconds", default="10,1", show_default=True, help="How long a part takes.")
@click.option("--per-worker", default=6, show_default=True, help="Parts of each worker.")
@click.option("--out", type=click.Path(path_type=Path), default=paths.DATA / "bench" / "scale.json")
def main(effects: str, workers: str, part_seconds: str, per_worker: int, out: Path) -> None:
    """Run both benchmarks, print their tables and write them as JSON."""
    found: dict[str, Any] = {"machine": {"processor": platform.machine(), "cores": os.cpu_count()}}
    with tempfile.TemporaryDirectory(prefix="vlmtrace-scale-") as scratch:
        home = home_with_models(Path(scratch) / "home")
        if effects:
            found["effects"] = bench_effects([int(float(size)) for size in effects.split(",")], home)
            click.echo(render_effects(found["effects"]))
        if workers:
            numbers, seconds = ([float(one) for one in text.split(",")] for text in (workers, part_seconds))
            found["workers"] = bench_workers([int(n) for n in numbers], seconds, per_worker, home)
            click.echo(render_workers(found["workers"]))
    write_json(found, out)


if __name__ == "__main__":
    main()
