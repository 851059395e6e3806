"""Train a bundled model from nothing: `python -m vlmtrace.training tiny-blip`."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.paths import MODELS
from vlmtrace.training.loop import train
from vlmtrace.training.options import check_numbers, check_start, check_teacher
from vlmtrace.training.recipe import RECIPES, TRAINABLE
from vlmtrace.training.whole_folder import check_replaceable


def main(arguments: list[str] | None = None) -> None:
    """Train the model that the command line names.

    Args:
        arguments: of the command line
    """
    parser = argparse.ArgumentParser(prog="python -m vlmtrace.training", description=__doc__)
    parser.add_argument("model", choices=list(RECIPES))
    parser.add_argument("--steps", type=int, help="steps (default: the recipe's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", default="", help="a folder with weights to go on from (default: from nothing)")
    parser.add_argument("--learning-rate", type=float, help="at its highest (default: the recipe's)")
    parser.add_argument("--out", type=Path, help="folder to write (default: data/models/<model>)")
    given = parser.parse_args(arguments)
    check_numbers(parser, given.steps, given.seed)
    if given.learning_rate is not None and not (given.learning_rate > 0 and math.isfinite(given.learning_rate)):
        parser.error("--learning-rate is a number above 0")
    recipe = RECIPES[given.model]
    recipe = replace(
        recipe,
        steps=given.steps or recipe.steps,
        learning_rate=given.learning_rate or recipe.learning_rate,
        seed=given.seed,
        start=given.start,
    )
    out = given.out or MODELS / given.model
    try:
        check_replaceable(out, "config.json")
        check_start(TRAINABLE[given.model], given.start)
        if given.model == "tiny-llava" and not given.start:
            check_teacher()
        train(given.model, recipe, out)
    except VlmtraceError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
