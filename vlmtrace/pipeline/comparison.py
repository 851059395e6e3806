"""Two runs side by side: does a model that looks by cross-attention decide where one that reads image tokens does?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.stats import bootstrap_mean
from vlmtrace.pipeline.runs import Run, open_run

FIGURE = "comparison"

#: What is compared: what a layer adds, not the stream that it adds to.
ADDED = ("cross_attention", "self_attention", "mlp")


def model_of(run: Run) -> str:
    """The name of a run's model, without its folder."""
    return str(run.record()["parameters"]["model"]).rstrip("/").split("/")[-1]


def head_block_of(table: pd.DataFrame) -> str:
    """The block that reads the prompt: the one in which attention has been patched at the options."""
    read = (table["module"] == "self_attention") & (table["token_role"] == "correct")
    blocks = table.loc[read, "block"].unique()
    if len(blocks) != 1:
        raise VlmtraceError(f"A module_patching table with {len(blocks)} blocks that read prompts cannot be compared.")
    return str(blocks[0])


def layer_profile(run: Run, tasks: Sequence[str]) -> pd.DataFrame:
    """The effect of each module and layer of the block that reads the prompt, summed over positions.

    Returns:
        model, task, corruption, sample_id, module, where ("text": the prompt's positions, "image": image tokens in
        the block's sequence), layer, patching_effect
    """
    tables = []
    for task in tasks:
        table = run.table("module_patching", task)
        table = table[(table["block"] == head_block_of(table)) & table["module"].isin(ADDED)]
        where = (table["token_role"] == "image").map({True: "image", False: "text"})
        place = ["corruption", "sample_id", "module", "where", "layer"]
        summed = table.assign(where=where).groupby(place)["patching_effect"].sum(min_count=1).reset_index()
        tables.append(summed.assign(task=task, sample_id=f"{task}/" + summed["sample_id"]))
    return pd.concat(tables, ignore_index=True).dropna().assign(model=model_of(run))


def peaks(profiles: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Where each model's modules restore most.

    Returns:
        one row a model, corruption, module and kind of position: its layer with the largest mean effect, that mean,
        its 95 % interval, and n
    """
    rows = []
    for (model, corruption, module, where), part in profiles.groupby(
        ["model", "corruption", "module", "where"], sort=False
    ):
        wide = part.pivot(index="sample_id", columns="layer", values="patching_effect").dropna()
        layer = int(wide.mean().idxmax())
        low, high = bootstrap_mean(wide[[layer]].to_numpy(), seed=seed)
        rows.append((model, corruption, module, where, layer, wide[layer].mean(), low[0], high[0], len(wide)))
    columns = ["model", "corruption", "module", "where", "layer", "mean", "ci_low", "ci_high", "n"]
    found = pd.DataFrame(rows, columns=columns)
    return found.sort_values(["corruption", "model", "mean"], ascending=[True, True, False])


def grounding(run: Run) -> dict[str, Any]:
    """How many of a run's important heads look at the object asked about more than its size explains.

    Returns:
        model, important (heads that look at the image and matter under image corruption in some task), on_object (of
        these, named "object detection"), looking (all heads so named), heads (all that look at the image)
    """
    functions, heads = run.table("head_functions"), run.table("heads")
    key = ["block", "module", "layer", "head"]
    named = functions.loc[functions["region"] == "object", [*key, "function"]]
    important = heads[heads["is_important"] & (heads["corruption"] == "image")][key].drop_duplicates()
    both = important.merge(named, on=key)
    detecting = named["function"] == "object detection"
    return {
        "model": model_of(run),
        "heads": len(named),
        "looking": int(detecting.sum()),
        "important": len(both),
        "on_object": int((both["function"] == "object detection").sum()),
    }


def compare(run: Run, other: Run) -> dict[str, Any]:
    """What the report says of two runs; draws the figure of both into the first one's folder.

    Raises:
        VlmtraceError: the runs share no task, or are of the same model
    """
    from vlmtrace import plots

    shared = [task for task in tasks_of(run) if task in tasks_of(other)]
    if not shared:
        raise VlmtraceError(f"Runs {run.name} and {other.name} share no task: run both on the same.")
    if model_of(run) == model_of(other):
        raise VlmtraceError(f"Runs {run.name} and {other.name} are of the same model: nothing to compare.")
    profiles = pd.concat([layer_profile(one, shared) for one in (other, run)], ignore_index=True)
    plots.save_figure(plots.layer_profiles(profiles), run.folder / "figures" / FIGURE)
    return {
        "other": other.name,
        "models": [model_of(other), model_of(run)],
        "tasks": shared,
        "peaks": peaks(profiles).to_dict("records"),
        "grounding": [grounding(one) for one in (other, run)],
        "figure": {
            "name": FIGURE,
            "caption": "Effect of patching what each layer's modules add, summed over positions, with 95 % intervals "
            "over pairs. Broken lines: at the image's tokens, where the block has any.",
        },
    }


def tasks_of(run: Run) -> list[str]:
    """Tasks that a run has patched modules of."""
    return sorted(path.parent.name for path in run.folder.glob("*/module_patching.parquet"))


def other_run(run: Run, name: str | None) -> Run | None:
    """The run to compare with, if it is there and of another model."""
    if not name or name == run.name:
        return None
    other = open_run(name)
    complete = all((one.folder / "head_functions.parquet").is_file() for one in (run, other))
    return other if complete and model_of(run) != model_of(other) else None
