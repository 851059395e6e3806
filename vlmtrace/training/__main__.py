"""Train a bundled model from nothing: `python -m vlmtrace.training tiny-blip`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from vlmtrace.core.paths import MODELS
from vlmtrace.training.loop import train
from vlmtrace.training.recipe import RECIPES


def main() -> None:
    """Train the model that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m vlmtrace.training", description=__doc__)
    parser.add_argument("model", choices=list(RECIPES))
    parser.add_argument("--steps", type=int, help="steps (default: the recipe's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", default="", help="a folder with weights to go on from (default: from nothing)")
    parser.add_argument("--learning-rate", type=float, help="at its highest (default: the recipe's)")
    parser.add_argument("--out", type=Path, help="folder to write (default: data/models/<model>)")
    arguments = parser.parse_args()
    recipe = RECIPES[arguments.model]
    recipe = replace(
        recipe,
        steps=arguments.steps or recipe.steps,
        learning_rate=arguments.learning_rate or recipe.learning_rate,
        seed=arguments.seed,
        start=arguments.start,
    )
    train(arguments.model, recipe, arguments.out or MODELS / arguments.model)


if __name__ == "__main__":
    main()
