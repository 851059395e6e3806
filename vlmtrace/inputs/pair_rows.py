"""What a row of a pairs table says, before any model looks at it: whether it can be a pair, and of which kind.

Tables and CSVs are asked the same. A pair whose two prompts are equal has no text corruption: it is a pair of images
alone, such as a question that is answered by yes or no.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from vlmtrace.core.arguments import checked

#: What every row must say for itself.
SAID = ("clean_image", "corrupt_image", "clean_prompt", "correct_answer", "incorrect_answer", "category")


def row_problem(pair: Mapping[str, Any]) -> str | None:
    """Why a row cannot be a pair, whatever the model.

    Args:
        pair: a row of a pairs table, or of a CSV

    Returns:
        the reason; None: it can be one

    >>> row_problem(dict.fromkeys(SAID, "red"))
    'both answers are the same'
    """
    for column in SAID:
        if isinstance(pair[column], str) and not pair[column].strip():
            return f"{column} is empty"
    if str(pair["correct_answer"]).strip() == str(pair["incorrect_answer"]).strip():
        return "both answers are the same"
    return None


@checked
def by_corruption(pairs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The pairs that have each corruption: those of images alone have no text corruption.

    Args:
        pairs: a pairs table, or one that came of it

    Returns:
        corruption → its rows of the table, with their index; "text" only where a pair has it

    >>> pairs = pd.DataFrame({"clean_prompt": ["a or b?", "is it?"], "corrupt_prompt": ["c or d?", "is it?"]})
    >>> {corruption: len(part) for corruption, part in by_corruption(pairs).items()}
    {'image': 2, 'text': 1}
    """
    with_text = pairs[~images_alone(pairs)]
    return {"image": pairs, "text": with_text} if len(with_text) else {"image": pairs}


def images_alone(pairs: pd.DataFrame) -> pd.Series:
    """Which pairs have no text corruption: both prompts are the same.

    Args:
        pairs: a pairs table, or one that came of it

    Returns:
        bool, one value per row

    >>> pairs = pd.DataFrame({"clean_prompt": ["a or b?", "is it?"], "corrupt_prompt": ["c or d?", "is it?"]})
    >>> images_alone(pairs).tolist()
    [False, True]
    """
    return pairs["clean_prompt"] == pairs["corrupt_prompt"]
