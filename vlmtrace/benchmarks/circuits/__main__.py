"""Score every method on the models whose circuit is known: `make circuit-benchmark`."""

from __future__ import annotations

from pathlib import Path

import click

from vlmtrace.benchmarks.circuits.figures import benchmark_figure
from vlmtrace.benchmarks.circuits.registry import METHODS, Method, chosen_methods
from vlmtrace.benchmarks.circuits.report import (
    Found,
    backup_table,
    collected,
    edges_table,
    kinds_table,
    nodes_table,
    write_collected,
)
from vlmtrace.benchmarks.circuits.runs import measure
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.files import locked, make_folder, write_atomically, write_table
from vlmtrace.core.paths import DATA, ROOT
from vlmtrace.display.style import render_png
from vlmtrace.training.planted.known import PLANTED

#: Where results go, and where the documentation keeps its own.
FOLDER = DATA / "bench" / "circuits"
NAME = "circuit_benchmark"


def methods_named(names: str) -> list[Method]:
    """The methods that a command asks for.

    Args:
        names: separated by ";": those of the benchmark, and "module:function" of somebody's own. With none of the
            benchmark's, all of them are measured beside one's own
    """
    given = [name.strip() for name in names.split(";") if name.strip()]
    known = [name for name in given if ":" not in name] or list(METHODS)
    return chosen_methods([*known, *(name for name in given if ":" in name)])


def models_named(names: str) -> list[str]:
    """The models that a command asks for.

    Args:
        names: separated by blanks; empty: all planted ones
    """
    return [one_of(name, PLANTED, "model whose circuit is known") for name in names.split()] or list(PLANTED)


def run(models: list[str], methods: list[Method], seeds: int, pairs: int, folder: Path) -> Found:
    """Measure, write what was found whole, and read it again.

    Args:
        models: names of planted models
        methods: to score
        seeds: how many
        pairs: for each seed
        folder: for what is found
    """
    make_folder(folder)
    busy = f"Another benchmark writes into {folder}: wait until it has finished."
    with locked(folder / ".lock", busy):
        found = measure(models, seeds, pairs, methods, folder / "parts")
        write_table(found, folder / "scores.parquet")
        path = folder / f"{NAME}.json"
        write_collected(collected(found, methods, pairs), path)
        return Found(path)


@click.command()
@click.option("--models", default="", envvar="VLMTRACE_MODELS", help="Separated by blanks; empty: all planted ones.")
@click.option(
    "--methods", default="", envvar="VLMTRACE_METHODS", help='Separated by ";"; module:function adds one of your own.'
)
@click.option("--seeds", type=click.IntRange(1), default=2, show_default=True, envvar="VLMTRACE_SEEDS")
@click.option("--pairs", type=click.IntRange(1), default=4, show_default=True, help="Pairs of each seed.")
@click.option("--docs", is_flag=True, help="Also write what the documentation shows.")
def main(models: str, methods: str, seeds: int, pairs: int, docs: bool) -> None:
    """Run the benchmark, print its tables, and write what it found."""
    try:
        found = run(models_named(models), methods_named(methods), seeds, pairs, FOLDER)
        picture = render_png(benchmark_figure(found), 200)
        pictures = [FOLDER / f"{NAME}.png"] + [ROOT / "docs" / "images" / f"{NAME}.png"] * docs
        for path in pictures:
            with write_atomically(path) as temporary:
                temporary.write_bytes(picture)
        if docs:
            text = (FOLDER / f"{NAME}.json").read_text(encoding="utf-8")
            with write_atomically(ROOT / "docs" / "measured" / f"{NAME}.json") as temporary:
                temporary.write_text(text, encoding="utf-8")
    except VlmtraceError as error:
        raise click.ClickException(str(error)) from error
    shown = {
        edges_table: len(found.of("edges")) > 0,
        nodes_table: True,
        backup_table: found.rows["joint"].notna().any(),
        kinds_table: True,
    }
    print("\n\n".join(table(found) for table, wanted in shown.items() if wanted))
    print(f"\nWritten: {FOLDER}")


if __name__ == "__main__":
    main()
