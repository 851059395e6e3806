"""The report of a run, data/runs/<run>/report/index.html: what was asked, what was found, and how it was computed.

The report is written for a reader who did not run the pipeline. Everything in it is read from the run's folder: tables,
figures with their captions, executed notebooks and run.json. Each statement about the results is computed from the
tables when the report is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import table_shape, write_atomically
from vlmtrace.display.numbers import interval, number, percent, small
from vlmtrace.display.style import RUN_COLORS, RUN_COLORS_ON_DARK
from vlmtrace.display.wording import readable
from vlmtrace.pipeline.beside import remember, remembered
from vlmtrace.pipeline.comparison import compared
from vlmtrace.pipeline.findings import Rows, findings
from vlmtrace.pipeline.first_screen import first_screen
from vlmtrace.pipeline.notebook_pages import notebook_pages
from vlmtrace.pipeline.runs import Run
from vlmtrace.pipeline.stages import stages


@checked
def write_report(run: Run, beside: str | None = None) -> Path:
    """Write the report of a run from the contents of its folder; sections of stages that have not run are left out.

    The executed notebooks are rendered as HTML pages in `notebooks/`, beside the report.

    Args:
        run: with at least one finished stage
        beside: name of a run of another model to compare with, which run.json then remembers; "": none; None: the one
            that it remembers. Where they cannot be compared, the report says why

    Returns:
        the path of index.html

    Raises:
        VlmtraceError: the run does not exist, or none of its stages has finished
    """
    record = run.record()
    if not record["stages"]:
        raise VlmtraceError(f"Run {run.name!r} has no finished stage to report: run its notebooks first (make all).")
    folder = run.folder / "report"
    name = remembered(record) if beside is None else beside
    comparison, not_compared = compared(run, name)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vlmtrace.pipeline"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": percent,
        "number": number,
        "interval": interval,
        "small": small,
        "readable": readable,
        "quoted": quoted,
    }
    found = findings(run, record)
    figures = figures_by_stage(run, record)
    page = environment.get_template("report.html.j2").render(
        run=run.name,
        colors=RUN_COLORS,
        colors_on_dark=RUN_COLORS_ON_DARK,
        record=record,
        figures=figures,
        together=figures_named(figures, "04_module_patching", ("regions", "knockouts")),
        attribution=figures_named(figures, "05_head_patching", ("attribution",)),
        maps=lambda task: other_figures(figures, "04_module_patching", task, ("regions", "knockouts")),
        notebooks=list(notebook_pages(run, folder)),
        tables=list(table_sizes(run)),
        stages=stage_rows(record),
        comparison=comparison,
        beside=name,
        not_compared=not_compared,
        explorers=[name for name, spec in stages().items() if spec.target == "explore" and name in record["stages"]],
        other_reports=other_reports(run),
        **found,
        **first_screen(run, record, found),
    )
    with write_atomically(folder / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    remember(run, name)
    return folder / "index.html"


def quoted(caption: str) -> str:
    """Write what a caption has in backticks in quotation marks.

    Args:
        caption: of a figure

    Example:
        >>> quoted("Masks of the `object`.")
        'Masks of the “object”.'
    """
    return re.sub(r"`([^`]*)`", r"“\1”", caption)


# Contents of the run's folder ---------------------------------------------------------------------------------------


def figures_by_stage(run: Run, record: dict[str, Any]) -> dict[str, dict[str, Rows]]:
    """List the figures of a run whose files exist.

    Args:
        run: in whose folder the files lie
        record: the contents of its run.json

    Returns:
        by stage and task ("" for a stage of all tasks): rows with name and caption
    """
    found: dict[str, dict[str, Rows]] = {stage: {} for stage in stages()}
    for key, entry in record["stages"].items():
        task, _, stage = key.rpartition("/")
        there = [figure for figure in entry["figures"] if (run.folder / "figures" / f"{figure['name']}.png").is_file()]
        if there:
            found.setdefault(stage, {})[task] = there
    return found


def figures_named(figures: dict[str, dict[str, Rows]], stage: str, names: Iterable[str]) -> dict[str, Rows]:
    """Choose figures of a stage by their names without the task.

    Args:
        figures: from `figures_by_stage`
        stage: whose figures
        names: such as "regions"

    Returns:
        by task, the figures with these names; tasks without one are left out
    """
    chosen = {
        task: [row for row in rows if row["name"].removeprefix(f"{task}-") in names]
        for task, rows in figures.get(stage, {}).items()
    }
    return {task: rows for task, rows in chosen.items() if rows}


def other_figures(figures: dict[str, dict[str, Rows]], stage: str, task: str, names: Iterable[str]) -> Rows:
    """Choose the figures of a stage and task that have none of these names.

    Args:
        figures: from `figures_by_stage`
        stage: whose figures
        task: of the figures
        names: such as "regions"
    """
    rows = figures.get(stage, {}).get(task, [])
    return [row for row in rows if row["name"].removeprefix(f"{task}-") not in names]


def other_reports(run: Run) -> list[str]:
    """List the names of the other runs that have a report, sorted."""
    found = sorted(page.parts[-3] for page in run.folder.parent.glob("*/report/index.html"))
    return [name for name in found if name != run.name]


def table_sizes(run: Run) -> Iterable[dict[str, Any]]:
    """List the tables of a run.

    Args:
        run: whose folder is searched

    Yields:
        for each table: path (relative to the run's folder), rows (their number), columns (their names, as text)
    """
    for path in sorted(run.folder.glob("[!.]*.parquet")) + sorted(run.folder.glob("[!.]*/[!.]*.parquet")):
        rows, columns = table_shape(path)
        yield {"path": path.relative_to(run.folder).as_posix(), "rows": rows, "columns": ", ".join(columns)}


def stage_rows(record: dict[str, Any]) -> Rows:
    """List the finished stages in the order of the pipeline.

    Args:
        record: the contents of run.json

    Returns:
        one row per stage and task: task, stage, seconds, finished (UTC), parameters (those that were set, without the
        model's)
    """
    order = sorted(record["stages"].items(), key=lambda item: (item[0].rpartition("/")[2], item[0]))
    return [
        {
            "task": key.rpartition("/")[0],
            "stage": key.rpartition("/")[2],
            "seconds": entry.get("seconds", float("nan")),
            "finished": entry.get("finished", "–")[:16].replace("T", " "),
            "parameters": {
                name: value
                for name, value in entry["parameters"].items()
                if name not in ("model", "fingerprint") and value not in (None, "")
            },
        }
        for key, entry in order
    ]
