"""What a reader chooses in a notebook's explorer: a pair, and how it is shown."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pandas as pd
from matplotlib.figure import Figure, FigureBase

from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.schema import check_table
from vlmtrace.display.figure_explorer import Options
from vlmtrace.display.panels import image_panel, masks_of, outline_legend, outline_masks
from vlmtrace.display.style import PAGE_WIDTH
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.models import VLM

T = TypeVar("T")


def remember_last(function: Callable[[pd.Series], T]) -> Callable[[pd.Series], T]:
    """Keep the result for the pair asked for last: a change of head needs no forward pass."""
    kept: dict[str, T] = {}

    def remembering(pair: pd.Series) -> T:
        if pair["sample_id"] not in kept:
            found = function(pair)
            kept.clear()
            kept[pair["sample_id"]] = found
        return kept[pair["sample_id"]]

    return remembering


def shared_pairs(pairs: pd.DataFrame, effects: pd.DataFrame, what: str) -> pd.DataFrame:
    """The pairs that have effects."""
    check_table(pairs, ["sample_id", "clean_image", "corrupt_image", "clean_prompt", "corrupt_prompt"], "pairs")
    check_table(
        effects, ["sample_id", "corruption", "block", "module", "layer", "position", "token", "token_role"], what
    )
    shown = pairs[pairs["sample_id"].isin(effects["sample_id"])]
    if shown.empty:
        raise VlmtraceError(f"No pair of the pairs table is in the {what} table: pass tables of the same task and run.")
    return shown


def told_apart(pairs: pd.DataFrame) -> pd.DataFrame:
    """A sample_id is unique in its task only: where there are several tasks, let it begin with the task."""
    if "task" not in pairs or pairs["task"].nunique() == 1:
        return pairs
    return pairs.assign(sample_id=pairs["task"] + "/" + pairs["sample_id"])


def pair_options(pairs: pd.DataFrame) -> Options:
    return [(f"{row.sample_id}: {row.clean_prompt}", row.sample_id) for row in pairs.itertuples()]


def chosen_pair(pairs: pd.DataFrame, sample_id: str | None) -> pd.Series:
    """The row of one pair; None: the first."""
    if sample_id is None:
        return pairs.iloc[0]
    return pairs[pairs["sample_id"] == one_of(sample_id, pairs["sample_id"], "sample_id")].iloc[0]


def token_label(position: int, token: str, role: str) -> str:
    return f"{position}: {token}" + ("" if role == token else f" ({role})")


def clean_inputs(model: VLM, pair: pd.Series) -> Any:
    return model.encode([pair["clean_image"]], [model.prompt_text(pair["clean_prompt"])])


def runs_above(figure: Figure, height: float) -> tuple[FigureBase, Any]:
    """Room for both runs, and axes of about `height` inches below."""
    figure.set_size_inches(PAGE_WIDTH, 2.9 + height)
    grid = figure.add_gridspec(2, 1, height_ratios=[2.2, height])
    return figure.add_subfigure(grid[0]), figure.add_subplot(grid[1])


def draw_runs(panel: FigureBase, pair: pd.Series, corruption: str) -> None:
    """The images that the clean and the corrupt run see, under their prompts and, where known, the model's answers."""
    axes = panel.subplots(1, 2)
    image, prompt = CORRUPTIONS.get(corruption, ("clean_image", "clean_prompt"))
    runs: Sequence[tuple[str, str, str]] = [("clean", "clean_image", "clean_prompt"), (corruption, image, prompt)]
    masks = masks_of(pair)
    for place, (run, image_column, prompt_column) in zip(axes, runs, strict=True):
        size = image_panel(place, pair[image_column])
        if image_column == "clean_image":  # the masks are those of the clean image
            outline_masks(place, masks, size)
        said = pair.get("generated_answer" if run == "clean" else f"{run}_generated_answer")
        answer = f" — {said}" if isinstance(said, str) else ""
        name = "clean run" if run == "clean" else "corrupt run"
        place.set_title(textwrap.fill(f"{name}: {pair[prompt_column]}{answer}", 60))
    outline_legend(panel, masks)
