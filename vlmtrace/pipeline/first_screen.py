"""What the report shows first: the verdict, the strongest findings with their pictures, the model with its effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import HEAD
from vlmtrace.display.style import save_figure
from vlmtrace.display.wording import readable
from vlmtrace.methods.patching.mean_figures import mean_effect_maps
from vlmtrace.pipeline.drawings import model_drawing, model_effects, strip
from vlmtrace.pipeline.report_pairs import listed_pairs, shown_pair
from vlmtrace.pipeline.runs import Run
from vlmtrace.pipeline.strongest import strongest_findings
from vlmtrace.pipeline.verdict import verdict

#: The corruption that the model is drawn under, where the run has it.
DRAWN = "image"


def first_screen(run: Run, record: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Compute what the first screen and the maps below it show.

    Args:
        run: whose tables are read
        record: the contents of its run.json
        found: from `findings`

    Returns:
        variables of the template: findings, candidates, regions_within, verdict, drawing and drawn_corruption,
        mean_maps, pairs
    """
    tasks, model = found["tasks"], str(record["parameters"].get("model") or "")
    selected = _of_all(run, "selected", tasks)
    strongest = strongest_findings(run, tasks, selected)
    for finding in strongest["findings"]:
        finding["strip"] = strip(finding)
        finding["shown"] = shown_pair(selected, finding["task"], finding["pair"], model, _selected_head(finding))
    heads = run.table("heads") if run.path("heads").is_file() else pd.DataFrame()
    modules = _of_all(run, "module_patching", tasks)
    known = [name for table in (heads, modules) if len(table) for name in table["corruption"].unique()]
    corruption = DRAWN if DRAWN in known or not known else known[0]
    parts = model_effects(
        heads, _of_all(run, "whole_heads", tasks), modules, _of_all(run, "regions", tasks), corruption
    )
    return {
        "findings": strongest["findings"],
        "candidates": strongest["candidates"],
        "regions_within": strongest["regions_within"],
        "verdict": verdict(found["circuits"], found["universality"], strongest["candidates"], strongest["findings"]),
        "drawing": model_drawing(parts, strongest["findings"]),
        "drawn_corruption": corruption,
        "mean_maps": mean_maps(run, modules),
        "pairs": listed_pairs(selected, model),
    }


def mean_maps(run: Run, modules: pd.DataFrame) -> list[dict[str, str]]:
    """Draw one map of mean effects a corruption, and save it among the run's figures.

    Args:
        run: in whose folder the figures go
        modules: the module_patching tables of all tasks

    Returns:
        name and caption of each; none where no block reads the question in all tasks
    """
    if modules.empty:
        return []
    at_option = (modules["module"] == "self_attention") & (modules["token_role"] == "correct")
    blocks = modules.loc[at_option, "block"].unique()
    if len(blocks) != 1:
        return []
    rows = []
    for corruption in modules["corruption"].unique():
        try:
            figure = mean_effect_maps(modules, block=blocks[0], corruption=corruption)
        except VlmtraceError:  # all effects are missing: there is nothing to draw
            continue
        name = f"mean-{corruption}"
        save_figure(figure, run.folder / "figures" / name)
        caption = (
            f"{str(corruption).capitalize()} corruption: mean effect of patching one module of the "
            f"{readable(blocks[0])} at one token, by layer and token role, over all pairs of a task."
        )
        rows.append({"name": name, "caption": caption})
    return rows


def _selected_head(finding: Mapping[str, Any]) -> str:
    """The strongest head of a finding about heads, as the explorer's address names it."""
    if finding["kind"] != "heads":
        return ""
    head = finding["place"]["heads"][0]
    return ".".join(str(head[name]) for name in HEAD)


def _of_all(run: Run, table: str, tasks: Sequence[str]) -> pd.DataFrame:
    found = [run.table(table, task).assign(task=task) for task in tasks if run.path(table, task).is_file()]
    found = [part for part in found if len(part)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()
