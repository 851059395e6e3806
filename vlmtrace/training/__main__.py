"""Train a bundled model from nothing: `python -m vlmtrace.training tiny-blip`."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlmtrace.paths import MODELS
from vlmtrace.training.recipe import Recipe, train


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vlmtrace.training", description=__doc__)
    parser.add_argument("model", choices=["tiny-blip"])
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--out", type=Path, help="folder to write (default: data/models/<model>)")
    arguments = parser.parse_args()
    train(Recipe(steps=arguments.steps, seed=arguments.seed), arguments.out or MODELS / arguments.model)


if __name__ == "__main__":
    main()
