"""Millions of effects through notebooks 05 and 06: what they cost in a process of its own.

    python -m vlmtrace.benchmarks.scale_effects 06 stored HOME RUN

does what notebook 06 does with the effects of a run, and prints seconds and peak memory as JSON. `stored` reads the
tables from disk some pairs at a time, as the notebooks do; `pandas` reads all rows, as they did before: a reference.
The tables are made up: the sites of tiny-blip's heads, with effects that are noise.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from vlmtrace.core.files import write_table
from vlmtrace.core.schema import TABLES
from vlmtrace.core.stored import StoredTable
from vlmtrace.methods.attribution import ranking_agreement
from vlmtrace.methods.circuits import effect_size_sensitivity, head_table, universal_heads, universality
from vlmtrace.methods.evaluation.selection import USE
from vlmtrace.models import VLM
from vlmtrace.models.loading import load_model
from vlmtrace.pipeline import Stage, joined, open_run
from vlmtrace.pipeline.checkpoints import digest_of
from vlmtrace.pipeline.findings import verified_effects
from vlmtrace.pipeline.stored_parts import gathered, write_parquet

TASKS = ("rendered_states", "rendered_faces", "rendered_svo")

#: What a pair of tiny-blip has: heads of two modules, and positions of its question.
MODULES, LAYERS, HEADS = ("self_attention", "cross_attention"), 4, 8
ROLES = ("[CLS]", "is", "this", "noun", "correct", "or", "incorrect", "?", "[SEP]")
CORRUPTIONS = ("image", "text")

#: Effects of one pair under both corruptions.
PER_PAIR = len(CORRUPTIONS) * len(MODULES) * LAYERS * HEADS * len(ROLES)

#: Pairs in a part of a computation.
PART = 16

WAYS = ("pandas", "stored")


def made_up_effects(model: Any, pairs: pd.DataFrame, corruption: str = "image") -> pd.DataFrame:
    """A head_patching table of noise, with the signature of `vt.patch_heads`.

    Args:
        model: is not used
        pairs: with the columns sample_id and unit
        corruption: "image" or "text"

    Returns:
        one row per pair, head of tiny-blip and position
    """
    sites = pd.MultiIndex.from_product([MODULES, range(LAYERS), range(HEADS), range(len(ROLES))])
    n, m = len(pairs), len(sites)
    seed = int.from_bytes(pairs["sample_id"].iloc[0].encode()[-8:], "little") + CORRUPTIONS.index(corruption)
    noise = np.random.default_rng(seed).normal(scale=0.05, size=(3, n * m))
    modules, layers, heads, positions = (np.tile(sites.get_level_values(level), n) for level in range(4))
    roles = np.array(ROLES, dtype=object)[positions.astype(int)]
    return pd.DataFrame(
        {
            "sample_id": np.repeat(pairs["sample_id"].to_numpy(), m),
            "unit": np.repeat(pairs["unit"].to_numpy(), m),
            "corruption": corruption,
            "block": "text_encoder",
            "module": modules,
            "layer": layers.astype(np.int64),
            "head": heads.astype(np.int64),
            "position": positions.astype(np.int64),
            "token": roles,
            "token_role": roles,
            "p_correct": np.clip(np.abs(noise[0]), 0, 1).astype(np.float32),
            "p_diff": np.clip(noise[1], -1, 1).astype(np.float32),
            "logit_diff": (20 * noise[2]).astype(np.float32),
            "patching_effect": noise[2],
            "contrast_token": np.repeat(pairs["incorrect_answer"].to_numpy(), m),
            "direction": "denoising",
        }
    )


def made_up_pairs(task: str, n: int) -> pd.DataFrame:
    """A `selected` table of n pairs without images, every other one to discover on."""
    fillers = {"text": "x", "integer": 0, "number": 0.5, "boolean": True, "any": "x"}
    rows = {
        column.name: [column.values[0] if column.values else fillers[column.kind]] * n
        for column in TABLES["selected"].columns
        if column.kind != "texts"  # lists, of several images
    }
    table = pd.DataFrame(rows)
    table["sample_id"] = [f"{task}-test-0-{i:06d}" for i in range(n)]
    table["unit"] = [f"{task}-test-0-{i - i % 2:06d}" for i in range(n)]  # a pair and its mirror image
    table["task"] = task
    table["correct_answer"], table["incorrect_answer"] = "red", "blue"
    table[USE] = [("discover", "verify")[i // 2 % 2] for i in range(n)]
    return table


def make_run(n_effects: int, home: Path, name: str, tasks: Sequence[str] = TASKS, with_effects: bool = True) -> int:
    """Write the tables `selected` and `head_patching` of a run, as notebooks 03 and 05 would.

    Args:
        n_effects: rows of head_patching over all tasks, about
        home: the folder that has data/runs
        name: of the run
        tasks: names of its tasks
        with_effects: whether head_patching is written, too

    Returns:
        how many effects there are, or would be
    """
    per_task = max(2 * PART, round(n_effects / PER_PAIR / len(tasks)))
    for task in tasks:
        pairs = made_up_pairs(task, per_task)
        folder = home / "data" / "runs" / name / task
        write_table(pairs, folder / "selected.parquet")
        if with_effects:
            parts = [pairs[start : start + PART] for start in range(0, per_task, PART)]
            tables = [
                gathered((made_up_effects(None, part, corruption) for part in parts), folder, task)
                for corruption in CORRUPTIONS
            ]
            write_parquet(joined(tables), folder / "head_patching.parquet")
    return per_task * len(tasks) * PER_PAIR


def measured(stage: str, way: str, home: Path, run: str) -> dict[str, Any]:
    """Figures of one stage in a process of its own.

    Args:
        stage: "05", "06" or "report"
        way: "pandas" or "stored"
        home: the folder that has data/runs
        run: the run's name

    Returns:
        seconds, cpu_seconds, peak_bytes of the whole process, start_bytes before the first row was read, and a digest
        of the resulting heads
    """
    command = [sys.executable, "-m", "vlmtrace.benchmarks.scale_effects", stage, way, str(home), run]
    environment = {**os.environ, "VLMTRACE_HOME": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["without a word"])[-1], "code": done.returncode}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def peak_bytes() -> int:
    """The most memory that this process ever had at a time (resident)."""
    try:  # what getrusage says includes the process that started this one
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return size if sys.platform == "darwin" else 1024 * size


def parts_of_05(stage: Stage, model: VLM, way: str) -> None:
    """Compute the parts of notebook 05 and leave them, as an interrupted notebook does."""
    for corruption in CORRUPTIONS:
        stage.resume_stored(made_up_effects, model, stage.read("selected"), corruption=corruption)


def effects_of_05(stage: Stage, model: VLM, way: str) -> pd.DataFrame:
    """What notebook 05 does with the effects: it joins the parts, maps, ranks and writes them."""
    selected = stage.read("selected")
    discover = selected.loc[selected[USE] == "discover", ["sample_id"]]
    sites = ["corruption", "module", "layer", "head", "token_role"]
    effects: pd.DataFrame | StoredTable
    if way == "stored":
        effects = joined(stage.resume_stored(made_up_effects, model, selected, corruption=one) for one in CORRUPTIONS)
        exact = effects.only(discover)
        heads = head_table(exact.assign(task=stage.task))
        effects.means(sites, "patching_effect").unstack()
        ranking_agreement(exact.only(corruption="image"), exact.only(corruption="image"))
    else:
        parts = [stage.resume(made_up_effects, model, selected, corruption=one) for one in CORRUPTIONS]
        effects = pd.concat(parts, ignore_index=True)
        del parts
        in_memory = effects[effects["sample_id"].isin(discover["sample_id"])]
        heads = head_table(in_memory.assign(task=stage.task))
        effects.groupby(sites, sort=False)["patching_effect"].mean().unstack()
        ranking_agreement(*[in_memory[in_memory["corruption"] == "image"]] * 2)
    stage.finish(head_patching=effects)
    return heads


def effects_of_06(stage: Stage, model: VLM, way: str) -> pd.DataFrame:
    """What notebook 06 does with the effects: it tests every head on both halves of the pairs."""
    selected = pd.concat([stage.read("selected", task).assign(task=task) for task in TASKS], ignore_index=True)
    if way == "stored":
        effects = joined(stage.scan("head_patching", task).assign(task=task) for task in TASKS)
        halves = [effects.only(selected.loc[selected[USE] == u, ["task", "sample_id"]]) for u in ("discover", "verify")]
        heads, _ = (head_table(half) for half in halves)
    else:
        tables = [stage.read("head_patching", task).assign(task=task) for task in TASKS]
        whole = pd.concat(tables, ignore_index=True)
        del tables
        whole = whole.merge(selected[["task", "sample_id", USE]], on=["task", "sample_id"])
        heads, _ = (head_table(whole[whole[USE] == use]) for use in ("discover", "verify"))
    universal_heads(heads)
    universality(heads)
    effect_size_sensitivity(heads)
    stage.finish(heads=heads)
    return heads


def effects_of_report(stage: Stage, model: VLM, way: str) -> pd.DataFrame:
    """What the report reads of the effects: those of the strongest head of every cell, on pairs to verify on."""
    run = open_run(stage.run.name)
    heads = run.table("heads")
    selected = pd.concat([run.table("selected", task).assign(task=task) for task in TASKS], ignore_index=True)
    return verified_effects(run, heads, selected)


@click.command()
@click.argument("stage", type=click.Choice(["05-parts", "05", "06", "report"]))
@click.argument("way", type=click.Choice(WAYS))
@click.argument("home")
@click.argument("run")
def main(stage: str, way: str, home: str, run: str) -> None:
    """Do what a notebook does with the effects of a run, and print its figures."""
    model = load_model("tiny-blip")
    task = TASKS[0] if stage.startswith("05") else None
    began = open_run(run).stage("05_head_patching" if task else "06_circuit_analysis", task, model=model, seed=0)
    start_bytes, start, cpu = peak_bytes(), time.perf_counter(), time.process_time()
    works = {"05-parts": parts_of_05, "05": effects_of_05, "06": effects_of_06, "report": effects_of_report}
    result = works[stage](began, model, way)
    figures = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "start_bytes": start_bytes,
        "peak_bytes": peak_bytes(),
        "digest": "" if result is None else digest_of(result),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    # Under its own name, by which workers and parts know the functions of this module.
    from vlmtrace.benchmarks.scale_effects import main as of_module

    of_module()
