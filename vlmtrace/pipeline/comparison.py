"""Comparison of two runs: do two models, such as one with cross-attention and one with image tokens, decide alike?

Each run is summarized by the effects of what its layers add (`layer_profile`, `peaks`) and by what its important heads
attend to (`grounding`). Only tasks that both runs have patched are compared. Which run that is, is said in
`vlmtrace.pipeline.beside`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import UNIT
from vlmtrace.core.stats import mean_interval
from vlmtrace.inputs.token_roles import shows_image
from vlmtrace.methods.evaluation import USE
from vlmtrace.pipeline.beside import lacking, patched_tasks, same_model
from vlmtrace.pipeline.runs import Run, open_run

FIGURE = "comparison"

#: The modules that are compared: what a layer adds to the residual stream, not the stream itself.
ADDED = ("cross_attention", "self_attention", "mlp")


def model_of(run: Run) -> str:
    """Give the name of a run's model, without its folder, to be shown; empty for a run whose record names none.

    Other models may have the same one: whether two are the same, `same_model` knows.
    """
    return str(run.record()["parameters"].get("model", "")).rstrip("/").split("/")[-1]


def head_block_of(table: pd.DataFrame) -> str:
    """Find the block that reads the prompt: the one whose self-attention was patched at the correct option.

    Args:
        table: the module_patching table of a task

    Returns:
        the name of the block

    Raises:
        VlmtraceError: no block, or more than one, was patched there
    """
    at_option = (table["module"] == "self_attention") & (table["token_role"] == "correct")
    blocks = table.loc[at_option, "block"].unique()
    if len(blocks) != 1:
        raise VlmtraceError(f"A module_patching table with {len(blocks)} blocks that read prompts cannot be compared.")
    return str(blocks[0])


def layer_profile(run: Run, tasks: Sequence[str]) -> pd.DataFrame:
    """Sum the effects of each module and layer over positions, in the block that reads the prompt.

    Args:
        run: with the tables selected and module_patching of each task
        tasks: names of tasks

    Returns:
        one row per task, corruption, pair, module, kind of position and layer: model, task, corruption, sample_id
        ("task/sample_id"), unit (likewise; of the pair, or the pair itself where there are no units), split_use
        (what the pair is for: "discover" or "verify"), module, where (kind of position: "text" for those of the prompt,
        "image" for image tokens in the block's sequence), layer, patching_effect (the sum)

    Raises:
        VlmtraceError: a table does not have one block that reads the prompt
    """
    tables = []
    for task in tasks:
        table = run.table("module_patching", task)
        table = table[(table["block"] == head_block_of(table)) & table["module"].isin(ADDED)]
        where = shows_image(table["token_role"]).map({True: "image", False: "text"})
        site = ["corruption", "sample_id", "module", "where", "layer"]
        summed = table.assign(where=where).groupby(site)["patching_effect"].sum(min_count=1).dropna().reset_index()
        pairs = run.table("selected", task).set_index("sample_id")
        unit = pairs[UNIT] if UNIT in pairs else pairs.index.to_series()
        tables.append(
            summed.assign(
                task=task,
                sample_id=f"{task}/" + summed["sample_id"],
                unit=f"{task}/" + summed["sample_id"].map(unit).astype(str),
                **{USE: summed["sample_id"].map(pairs[USE])},
            )
        )
    return pd.concat(tables, ignore_index=True).assign(model=model_of(run))


def peaks(profiles: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Find the layer in which each model's modules have the largest mean effect, and how large it is there.

    The layer is picked on the discover pairs and the effect is measured on the verify pairs: the largest of several
    means is too large on the pairs that picked it, and no interval around it holds.

    Args:
        profiles: from `layer_profile`, of any number of runs
        seed: of the bootstrap

    Returns:
        one row per model, corruption, module and kind of position: model, corruption, module, where, layer (with the
        largest mean over discover pairs), mean (there, over units of verify pairs), ci_low, ci_high (its 95 %
        interval), n (verify pairs)

    Raises:
        VlmtraceError: there are no discover pairs, or none to verify on
    """
    rows = []
    for (model, corruption, module, where), part in profiles.groupby(
        ["model", "corruption", "module", "where"], sort=False
    ):
        picked, measured = (_unit_effects(part[part[USE] == use]) for use in ("discover", "verify"))
        if picked.empty or measured.empty:
            raise VlmtraceError(
                f"The {module} of {model} was patched on {len(picked)} discover and {len(measured)} verify units under "
                f"{corruption} corruption, but a layer is picked on the former and measured on the latter: patch both."
            )
        layer = int(picked.mean().idxmax())
        low, high = mean_interval(measured[layer], seed=seed)
        n = part.loc[part[USE] == "verify", "sample_id"].nunique()
        rows.append((model, corruption, module, where, layer, measured[layer].mean(), low[0], high[0], n))
    columns = ["model", "corruption", "module", "where", "layer", "mean", "ci_low", "ci_high", "n"]
    found = pd.DataFrame(rows, columns=columns)
    return found.sort_values(["corruption", "model", "mean"], ascending=[True, True, False])


def _unit_effects(profile: pd.DataFrame) -> pd.DataFrame:
    """Effects of one module, units × layers, pairs averaged; units that miss a layer are left out."""
    return profile.pivot_table(index=UNIT, columns="layer", values="patching_effect").dropna()


def grounding(run: Run) -> dict[str, Any]:
    """Count the important heads that attend to the object asked about more than its size explains.

    Args:
        run: with the tables heads and head_functions

    Returns:
        model (its name), heads (number of heads that see the image), detecting (of these, heads with the function
        "object detection"), important (of these, heads that are important under image corruption in some task),
        on_object (heads that are both)
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
        "detecting": int(detecting.sum()),
        "important": len(both),
        "on_object": int((both["function"] == "object detection").sum()),
    }


def check_comparable(run: Run, other: Run) -> list[str]:
    """Find what two runs can be compared on.

    Args:
        run: the run that is reported
        other: a run of another model

    Returns:
        the tasks that both have patched

    Raises:
        VlmtraceError: they cannot be compared; the sentence says why
    """
    if run.name == other.name:
        raise VlmtraceError(f"Run {run.name} cannot be compared with itself: name a run of another model.")
    records = {one.name: one.record() for one in (run, other)}
    for one in (run, other):
        if not records[one.name]["stages"]:
            raise VlmtraceError(f"Run {one.name} has no finished stage: make it (make all), or name another run.")
        if missing := lacking(one):
            raise VlmtraceError(f"Run {one.name} lacks {missing}: finish it (make all RUN={one.name}).")
    if same_model(records[run.name], records[other.name]):
        raise VlmtraceError(f"Runs {run.name} and {other.name} are of the same model: nothing to compare.")
    shared = [task for task in patched_tasks(run) if task in patched_tasks(other)]
    if not shared:
        raise VlmtraceError(f"Runs {run.name} and {other.name} share no task: run both on the same tasks.")
    return shared


def compare(run: Run, other: Run) -> dict[str, Any]:
    """Compare two runs, and save the figure of both in the folder of the first.

    Args:
        run: the run that is reported
        other: a run of another model

    Returns:
        what the report's section needs: other (name of the run), models (of other and run; with the run's name where
        both are called alike), tasks (those compared), peaks (rows of `peaks`), grounding (of other and run), figure
        (name and caption)

    Raises:
        VlmtraceError: they cannot be compared, or a table is damaged
    """
    from vlmtrace import plots  # here, since it imports seaborn, which takes a second

    shared, pair = check_comparable(run, other), (other, run)
    names = [model_of(one) for one in pair]
    if names[0] == names[1]:
        names = [f"{name} ({one.name})" for name, one in zip(names, pair, strict=True)]
    named = [*zip(names, pair, strict=True)]
    profiles = pd.concat([layer_profile(one, shared).assign(model=name) for name, one in named], ignore_index=True)
    section = {
        "other": other.name,
        "models": names,
        "tasks": shared,
        "peaks": peaks(profiles).to_dict("records"),
        "grounding": [grounding(one) | {"model": name} for name, one in named],
        "figure": {
            "name": FIGURE,
            "caption": "Effect of patching what the modules of each layer add, summed over positions, with 95 % "
            "intervals over units of pairs. Dashed lines: sum over the image tokens, if the block has any.",
        },
    }
    plots.save_figure(plots.layer_profiles(profiles), run.folder / "figures" / FIGURE)
    return section


def compared(run: Run, name: str) -> tuple[dict[str, Any] | None, str]:
    """Compare a run with another, if that can be done: what took hours is reported in either case.

    Args:
        run: the run that is reported
        name: of the run to compare with; "": none

    Returns:
        what `compare` returns, and a sentence about why it is left out; None and "" where there is nothing of it

    Raises:
        VlmtraceError: no run can have that name
    """
    if not name:
        return None, ""
    other = open_run(name)
    try:
        return compare(run, other), ""
    except VlmtraceError as error:
        return None, str(error)
