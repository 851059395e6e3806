"""Try what people and machines do wrong, at random, and count what becomes of it: `make torture`.

    python -m torture --minutes 5
    python -m torture --minutes 60 --inputs 1000 --kills 100 --seed 3

Malformed tables, CSVs, images, model folders and parameters are drawn by Hypothesis; stages and a small run of the real
pipeline are killed at random events and times. Each attempt must end in one sentence or in the right result, and
nothing may be lost.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import click
import numpy as np
import pandas as pd
import transformers
from fixtures.model_store import write
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as drawn_from
from PIL import Image
from torture.csvs import CsvCases
from torture.folders import FolderCases
from torture.kills import KilledRuns
from torture.outcome import Tally, outcome_of
from torture.parameters import ParameterCases
from torture.pictures import PictureCases
from torture.stages import KilledStages
from torture.tables import TableCases

import vlmtrace as vt
from vlmtrace.core import paths

COLORS = {"red": (200, 30, 30), "blue": (30, 30, 200), "green": (30, 160, 30), "yellow": (220, 200, 30)}

#: Seconds that one attempt may take.
PATIENCE = 20.0


def small_model(home: Path) -> vt.VLM:
    """A model with random weights."""
    folder = home / "models" / "random_blip"
    if not folder.exists():
        write(folder.name, folder)
    return vt.load_model(folder, check=False)


def small_pairs(home: Path) -> pd.DataFrame:
    """Four pairs of images, two of each color, that are written here."""
    images = home / "csv" / "images"
    images.mkdir(parents=True, exist_ok=True)
    for word, color in COLORS.items():
        for i in range(2):
            picture = np.full((40, 40, 3), 240, dtype=np.uint8)
            picture[8:32, 8 + i : 32] = color
            Image.fromarray(picture).save(images / f"{word}-{i}.png")
    words = list(COLORS)
    rows = [
        {
            "sample_id": f"pair-{i}", "task": "own", "category": "color", "correct_answer": a, "incorrect_answer": b,
            "clean_image": str(images / f"{a}-0.png"), "corrupt_image": str(images / f"{b}-1.png"),
            "clean_prompt": f"is this circle {a} or {b}?",
            "corrupt_prompt": f"is this circle {words[i - 1]} or {words[i - 2]}?",
            "correct_first": True,
        }
        for i, (a, b) in enumerate(zip(words, words[1:] + words[:1], strict=True))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def sources(home: Path) -> list:
    """Everything that inputs are drawn from."""
    model, pairs = small_model(home), small_pairs(home)
    write("llava", home / "models" / "llava")
    for name in ("pictures", "folders"):
        (home / name).mkdir()
    return [
        TableCases(model, pairs),
        CsvCases(home / "csv", list(COLORS)),
        PictureCases(home / "pictures"),
        FolderCases(home / "folders", [home / "models" / "random_blip", home / "models" / "llava"]),
        ParameterCases(sorted((paths.ROOT / "notebooks").glob("0*.ipynb")), model, pairs),
    ]


def draw_inputs(source, n: int, number: int, until: float, tally: Tally) -> None:
    """Try up to n cases of a source, or as many as there is time for."""

    @drawn_from(number)
    @settings(
        max_examples=n, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(source.cases())
    def attempt(case) -> None:
        if time.monotonic() < until:
            tally.note(source.kind, *outcome_of(case, PATIENCE))

    attempt()


def option(name: str, default: float, words: str) -> Callable:
    """An option that the environment can give, too, as make does."""
    return click.option(f"--{name}", default=default, show_default=True, envvar=f"VLMTRACE_{name.upper()}", help=words)


@click.command(help=__doc__)
@option("minutes", 5.0, "For all of it; half of it for kills.")
@option("inputs", 500, "Malformed inputs at most.")
@option("kills", 30, "Kills of stages, and kills of the whole pipeline, at most.")
@option("seed", 0, "Of all that is drawn.")
def main(minutes: float, inputs: int, kills: int, seed: int) -> None:
    """Draw inputs, kill runs, print counts; exit with 1 if there was a fault."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    os.environ["TQDM_DISABLE"] = "1"
    tally, started = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        home = Path(folder)
        if inputs:
            found = sources(home)
            for i, source in enumerate(found):
                now = time.monotonic()
                share = (started + 60 * minutes / (2 if kills else 1) - now) / (len(found) - i)
                draw_inputs(source, -(-inputs // len(found)), seed, now + share, tally)
        if kills:
            chance = random.Random(seed)
            model, pairs = small_model(home), small_pairs(home)
            now = time.monotonic()
            stages = KilledStages(home / "stages", chance, model, pairs)
            stages.kill(kills, now + (started + 60 * minutes - now) / 3, tally)
            runs = KilledRuns(home / "killed", chance)
            runs.kill(kills, started + 60 * minutes, tally)
    click.echo(tally.table())
    for words in tally.faults[:100]:
        click.echo(words.encode("utf-8", "backslashreplace").decode())
    click.echo(
        f"{tally.total()} attempts in {(time.monotonic() - started) / 60:.1f} minutes, {len(tally.faults)} faults"
    )
    sys.exit(bool(tally.faults))


if __name__ == "__main__":
    main()
