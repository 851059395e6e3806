"""The report of a run: data/runs/<run>/report/index.html, for somebody who did not run it.

Everything in it is read from the run's folder: tables, figures with their captions, executed notebooks and run.json.
Each statement about the result is computed from the tables when the report is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import write_atomically
from vlmtrace.core.schema import HEAD
from vlmtrace.display.wording import readable
from vlmtrace.methods.circuits.faithfulness import circuit_claims
from vlmtrace.methods.circuits.heads import universal_heads
from vlmtrace.methods.evaluation.answers import accuracy_table
from vlmtrace.methods.evaluation.selection import USE
from vlmtrace.pipeline.comparison import compare, other_run
from vlmtrace.pipeline.runs import Run
from vlmtrace.pipeline.stages import stages

Rows = list[dict[str, Any]]


def write_report(run: Run, beside: str | None = None) -> Path:
    """Draw the report of a run from what its folder holds; stages that have not run are left out.

    Args:
        run: the run
        beside: the name of a run of another model to compare with, if it is there
    Returns:
        the path of index.html; the executed notebooks stand beside it as HTML
    Raises:
        VlmtraceError: the run does not exist or no stage of it has finished
    """
    record = run.record()
    if not record["stages"]:
        raise VlmtraceError(f"Run {run.name!r} has no finished stage to report: run its notebooks first (make all).")
    folder = run.folder / "report"
    other = other_run(run, beside)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vlmtrace.pipeline"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "number": number, "words": readable}
    page = environment.get_template("report.html.j2").render(
        run=run.name,
        record=record,
        figures=figures_by_stage(run, record),
        notebooks=list(notebook_pages(run, folder)),
        tables=list(table_sizes(run)),
        stages=stage_rows(record),
        comparison=compare(run, other) if other else None,
        explorers=[name for name, spec in stages().items() if spec.target == "explore" and name in record["stages"]],
        other_reports=other_reports(run),
        **findings(run, record),
    )
    with write_atomically(folder / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / "index.html"


# What was found ------------------------------------------------------------------------------------------------


def findings(run: Run, record: dict[str, Any]) -> dict[str, Any]:
    """What the tables say, ready for the page; a missing table gives an empty entry."""
    tasks = tasks_of(run, record)
    evaluated = _read_tasks(run, "evaluated", tasks)
    selected = _read_tasks(run, "selected", tasks)
    heads, universal, functions, curves = (
        _read(run, table) for table in ("heads", "universal_heads", "head_functions", "faithfulness")
    )
    return {
        "tasks": tasks,
        "example": example(evaluated),
        "accuracy": accuracy_rows(evaluated),
        "selection": selection_rows(evaluated, selected),
        "places": [row for task in tasks for row in strongest_places(_read(run, "module_patching", task), task)],
        "importance": importance_rows(heads),
        "n_heads": 0 if heads.empty else len(heads[HEAD].drop_duplicates()),
        "universal": _records(universal[universal["is_universal"]]) if len(universal) else [],
        "in_every_task": {} if heads.empty else heads_of_every_task(heads),
        "somewhere": len(universal),
        "functions": function_rows(functions, universal),
        "claims": _records(circuit_claims(heads, curves)) if len(heads) and len(curves) else [],
    }


def tasks_of(run: Run, record: dict[str, Any]) -> list[str]:
    """The tasks that the circuits were found on; before that, those of which any stage has run."""
    known = record["stages"].get("06_circuit_analysis", {}).get("parameters", {}).get("tasks")
    return known or sorted({stage.split("/")[0] for stage in record["stages"] if "/" in stage})


def example(evaluated: pd.DataFrame) -> dict[str, Any]:
    """One pair that went as it should, to explain the method with."""
    if evaluated.empty:
        return {}
    good = evaluated[evaluated["is_correct"]]
    return (good if len(good) else evaluated).iloc[0].to_dict()


def accuracy_rows(evaluated: pd.DataFrame) -> Rows:
    """One row a task and category: the share of pairs on each measure."""
    if evaluated.empty:
        return []
    table = accuracy_table(evaluated)
    wide = table.pivot(index=["task", "category"], columns="measure", values="accuracy")
    return _records(wide.join(table.groupby(["task", "category"])["n"].max()).reset_index())


def selection_rows(evaluated: pd.DataFrame, selected: pd.DataFrame) -> Rows:
    """One row a task: pairs evaluated, selected, to discover and to verify."""
    if evaluated.empty or selected.empty:
        return []
    table = selected.groupby(["task", USE]).size().unstack(USE, fill_value=0)
    table = table.reindex(columns=["discover", "verify"], fill_value=0)
    table["selected"] = table.sum(axis=1)
    return _records(table.join(evaluated.groupby("task").size().rename("evaluated")).reset_index())


def strongest_places(effects: pd.DataFrame, task: str) -> Rows:
    """For each corruption, block and module, the layer and token role where patching restores most."""
    if effects.empty:
        return []
    place = ["corruption", "block", "module", "layer", "token_role"]
    by_pair = effects.groupby([*place, "sample_id"], sort=False, observed=True)["patching_effect"].mean()
    means = by_pair.groupby(level=place, sort=False).agg(["mean", "count"]).reset_index()
    best = means.loc[means.groupby(["corruption", "block", "module"], sort=False)["mean"].idxmax().dropna()]
    return _records(best[best["mean"] > 0].assign(task=task))


def importance_rows(heads: pd.DataFrame) -> Rows:
    """One row a task and corruption: how many heads are important, by either rule, and which is the strongest."""
    if heads.empty:
        return []
    rows = []
    for (task, corruption), cell in heads.groupby(["task", "corruption"], sort=False):
        strongest = cell.loc[cell["mean_effect"].idxmax()]
        rows.append(
            {
                "task": task,
                "corruption": corruption,
                "pairs": int(cell["n"].max()),
                "important": int(cell["is_important"].sum()),
                "against": int((cell["is_important"] & (cell["mean_effect"] < 0)).sum()),
                "notice": int(cell["is_important_2sd"].sum()),
                **strongest[["module", "layer", "head", "mean_effect", "ci_low", "ci_high"]].to_dict(),
            }
        )
    return rows


def heads_of_every_task(heads: pd.DataFrame) -> dict[str, Rows]:
    """Corruption → the heads that are important in every task under it."""
    found = {}
    for corruption, part in heads.groupby("corruption", sort=False):
        table = universal_heads(part)
        found[str(corruption)] = _records(table[table["is_universal"]])
    return found


def function_rows(functions: pd.DataFrame, universal: pd.DataFrame) -> Rows:
    """The heads that the masks give a function, with the cells in which patching finds them important."""
    if functions.empty:
        return []
    named = functions[(functions["region"] == "object") & (functions["function"] != "none")]
    cells = universal[[*HEAD, "cells", "is_universal"]] if len(universal) else pd.DataFrame(columns=HEAD)
    table = named.merge(cells, on=HEAD, how="left").sort_values(["function", "ratio"], ascending=[True, False])
    return _records(table)


# What lies in the folder ---------------------------------------------------------------------------------------


def figures_by_stage(run: Run, record: dict[str, Any]) -> dict[str, dict[str, Rows]]:
    """Stage → task ("" for all tasks) → figures that are there: name, caption."""
    found: dict[str, dict[str, Rows]] = {stage: {} for stage in stages()}
    for key, entry in record["stages"].items():
        task, _, stage = key.rpartition("/")
        there = [figure for figure in entry["figures"] if (run.folder / "figures" / f"{figure['name']}.png").is_file()]
        if there:
            found.setdefault(stage, {})[task] = there
    return found


def notebook_pages(run: Run, folder: Path) -> Iterable[dict[str, str]]:
    """The executed notebooks, each rendered as a page that needs no Jupyter; rendered again only when newer."""
    for notebook in sorted((run.folder / "notebooks").glob("[!.]*.ipynb")):
        page = folder / "notebooks" / f"{notebook.stem}.html"
        if not page.is_file() or page.stat().st_mtime < notebook.stat().st_mtime:
            with write_atomically(page) as temporary:
                temporary.write_text(notebook_as_html(notebook), encoding="utf-8")
        task, _, name = notebook.stem.rpartition("-")
        yield {
            "task": task,
            "name": name,
            "page": f"notebooks/{page.name}",
            "notebook": f"../notebooks/{notebook.name}",
        }


def notebook_as_html(notebook: Path) -> str:
    """A static page: controls, which are dead without a kernel, are left out, their pictures stay."""
    import nbformat
    from nbconvert import HTMLExporter

    content = nbformat.read(notebook, as_version=4)
    content.metadata.pop("widgets", None)
    content.metadata["title"] = notebook.stem
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs = [
                out for out in cell.outputs if "application/vnd.jupyter.widget-view+json" not in out.get("data", {})
            ]
    return HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True).from_notebook_node(content)[0]


def other_reports(run: Run) -> list[str]:
    """Names of the other runs that have a report."""
    found = sorted(page.parts[-3] for page in run.folder.parent.glob("*/report/index.html"))
    return [name for name in found if name != run.name]


def table_sizes(run: Run) -> Iterable[dict[str, Any]]:
    """Every table of the run with its size."""
    import pyarrow.parquet as pq

    for path in sorted(run.folder.glob("*.parquet")) + sorted(run.folder.glob("*/*.parquet")):
        rows = pq.read_metadata(path).num_rows
        columns = ", ".join(pq.read_schema(path).names)
        yield {"path": path.relative_to(run.folder).as_posix(), "rows": rows, "columns": columns}


def stage_rows(record: dict[str, Any]) -> Rows:
    """One row a stage in the order of the road: task, stage, seconds, parameters, when."""
    order = sorted(record["stages"].items(), key=lambda item: (item[0].rpartition("/")[2], item[0]))
    return [
        {
            "task": key.rpartition("/")[0],
            "stage": key.rpartition("/")[2],
            "seconds": entry["seconds"],
            "finished": entry["finished"][:16].replace("T", " "),
            "parameters": {
                name: value
                for name, value in entry["parameters"].items()
                if name not in ("model", "fingerprint") and value not in (None, "")
            },
        }
        for key, entry in order
    ]


def _read(run: Run, table: str, task: str | None = None) -> pd.DataFrame:
    return run.table(table, task) if run.path(table, task).is_file() else pd.DataFrame()


def _read_tasks(run: Run, table: str, tasks: Iterable[str]) -> pd.DataFrame:
    found = [part.assign(task=task) for task in tasks if len(part := _read(run, table, task))]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _records(table: pd.DataFrame) -> Rows:
    return table.to_dict("records")


# How it is said ------------------------------------------------------------------------------------------------


def percent(value: float) -> str:
    """A share, with a decimal only where it matters.

    >>> percent(0.5), percent(0.996), percent(1.0), percent(1.755), percent(float("nan"))
    ('50 %', '99.6 %', '100 %', '176 %', '–')
    """
    if pd.isna(value):
        return "–"
    digits = int(0 < value < 0.01 or 0.99 < value < 1)
    # Adding 0 turns the −0 that rounding may leave into 0.
    return f"{round(100 * value, digits) + 0:.{digits}f} %".replace("-", "−")


def number(value: float, digits: int = 2) -> str:
    """A number with a true minus sign.

    >>> number(-0.256), number(float("nan"))
    ('−0.26', '–')
    """
    return "–" if pd.isna(value) else f"{value:.{digits}f}".replace("-", "−")
