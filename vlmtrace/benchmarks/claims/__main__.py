"""Measure what published work claims: `make claims`."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from vlmtrace.benchmarks.claims.material import Material
from vlmtrace.benchmarks.claims.registry import CLAIMS
from vlmtrace.benchmarks.claims.report import Found, claims_table
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import locked, make_folder, read_json, write_json
from vlmtrace.core.paths import DATA, ROOT
from vlmtrace.models import bundled_models

#: Where results go, and where the documentation keeps its own.
FOLDER = DATA / "bench" / "claims"
NAME = "claims"
MODELS = ("tiny-blip", "tiny-llava")


def measured(name: str, n: int, seed: int, folder: Path) -> dict[str, Any]:
    """The numbers of one model, each claim's kept as soon as it is there, and found again when it is asked the same.

    Args:
        name: of the model
        n: pairs of each task
        seed: of pairs and questions
        folder: for what is found

    Returns:
        name, n, seed, fingerprint of the weights, and by claim the rows of `Number`
    """
    material = Material(name, n, seed)
    path = folder / f"{Path(name).name}.json"
    found: dict[str, Any] = {
        "name": name,
        "n": n,
        "seed": seed,
        "fingerprint": material.model.fingerprint(),
        "claims": {},
    }
    if path.is_file():
        before = read_json(path)
        if all(before.get(key) == found[key] for key in ("name", "n", "seed", "fingerprint")):
            found = before
    for claim in CLAIMS.values():
        if claim.name in found["claims"] or (claim.decoder_only and not material.model.has_visual_tokens):
            continue
        start = time.process_time()
        rows = [{key: _plain(value) for key, value in asdict(one).items()} for one in claim.measure(material)]
        found["claims"][claim.name] = rows
        write_json(found, path)
        click.echo(f"{name}: {claim.name}, {time.process_time() - start:.0f} s")
    return found


def _plain(value: Any) -> Any:
    """Numbers as JSON has them, to six digits."""
    if isinstance(value, str):
        return value
    return None if np.isnan(value) else round(float(value), 6) if float(value) != int(value) else int(value)


@click.command()
@click.option("--models", default="", envvar="VLMTRACE_MODELS", help="Separated by blanks; empty: the bundled ones.")
@click.option("--pairs", type=click.IntRange(8), default=48, show_default=True, envvar="VLMTRACE_PAIRS")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--docs", is_flag=True, help="Also write what the documentation shows.")
def main(models: str, pairs: int, seed: int, docs: bool) -> None:
    """Measure every claim on every model, print the table, and write what was found."""
    try:
        names = models.split() or [*MODELS, *(["smol-llava"] if "smol-llava" in bundled_models() else [])]
        make_folder(FOLDER)
        with locked(FOLDER / ".lock", f"Another process writes into {FOLDER}: wait until it has finished."):
            content = {"models": [measured(name, pairs, seed, FOLDER) for name in names]}
            for path in [FOLDER / f"{NAME}.json"] + [ROOT / "docs" / "measured" / f"{NAME}.json"] * docs:
                write_json(content, path)
            print(claims_table(Found(FOLDER / f"{NAME}.json")))
    except VlmtraceError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
