"""The pairs of a run on its report: small pictures, and links to the explorer at that pair."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.images import open_image
from vlmtrace.inputs.pictures import picture_of

#: Where `make app` serves the explorer unless told otherwise.
EXPLORER = "http://127.0.0.1:8866/"

#: The longer side of a small picture, in pixels: sharp at 150 % where it is shown 100 pixels wide.
SIDE = 224

#: The pairs of a task that are listed with their links.
MOST_LISTED = 200


def explorer_link(model: str, sample_id: str, select: str = "") -> str:
    """The explorer's address at a pair, where its effects of patching are.

    What the explorer reads behind the #: the model, the pair, the view, and what is selected. Its pairs are those of
    the run that it was started with (`make app RUN=…`).

    Args:
        model: its name or path; "": the explorer's own
        sample_id: of the pair
        select: what is selected, such as "text_encoder.cross_attention.3.6"; "": nothing

    Returns:
        the address

    Example:
        >>> explorer_link("tiny-blip", "a b")
        'http://127.0.0.1:8866/#model=tiny-blip&pair=a+b&view=patch'
    """
    asked = {"model": model, "pair": sample_id, "view": "patch", "select": select}
    return EXPLORER + "#" + urlencode({name: value for name, value in asked.items() if value})


def small_picture(pair: Mapping[str, Any], column: str) -> str:
    """An image of a pair as an address that holds the picture itself, so that the page stays one file.

    Args:
        pair: a row of a pairs table
        column: "clean_image" or "corrupt_image"

    Returns:
        a data: address; "" where the image is not there any more or cannot be read
    """
    try:
        image = open_image(picture_of(pair, column)).convert("RGB")
    except (VlmtraceError, OSError, KeyError):
        return ""
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def shown_pair(selected: pd.DataFrame, task: str, sample_id: str, model: str, select: str = "") -> dict[str, Any]:
    """What the report shows of a pair.

    Args:
        selected: rows of all tasks
        task: of the pair
        sample_id: of the pair
        model: the run's model
        select: what is selected there

    Returns:
        sample_id, prompt, correct, incorrect, clean and corrupt (pictures, may be ""), link; {} for an unknown pair
    """
    rows = selected[(selected["task"] == task) & (selected["sample_id"] == sample_id)]
    if rows.empty:
        return {}
    pair = rows.iloc[0]
    return {
        "sample_id": sample_id,
        "prompt": pair["clean_prompt"],
        "correct": pair["correct_answer"],
        "incorrect": pair["incorrect_answer"],
        "clean": small_picture(pair, "clean_image"),
        "corrupt": small_picture(pair, "corrupt_image"),
        "link": explorer_link(model, sample_id, select),
    }


def listed_pairs(selected: pd.DataFrame, model: str) -> dict[str, list[dict[str, Any]]]:
    """The pairs that were patched, with links to the explorer.

    Args:
        selected: rows of all tasks
        model: the run's model

    Returns:
        by task, the first pairs: sample_id, category, prompt, correct, incorrect, use, link
    """
    if selected.empty:
        return {}
    return {
        str(task): [
            {
                "sample_id": row["sample_id"],
                "category": row["category"],
                "prompt": row["clean_prompt"],
                "correct": row["correct_answer"],
                "incorrect": row["incorrect_answer"],
                "use": row.get("split_use", ""),
                "link": explorer_link(model, row["sample_id"]),
            }
            for row in rows.head(MOST_LISTED).to_dict("records")
        ]
        for task, rows in selected.groupby("task", sort=False)
    }
