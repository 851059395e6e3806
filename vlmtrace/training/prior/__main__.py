"""Make models with a planted prior, and their controls: `python -m vlmtrace.training.prior`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.paths import MODELS
from vlmtrace.training import tiny_blip, tiny_llava
from vlmtrace.training.prior.card import save_with_card
from vlmtrace.training.prior.further import Further, train_further
from vlmtrace.training.prior.world import WORLDS

#: The models, by name: what they are copies of. The world stands before the dash.
COPIES = {
    f"{world}-{bundled.NAME.removeprefix('tiny-')}": bundled for bundled in (tiny_blip, tiny_llava) for world in WORLDS
}


def main() -> None:
    """Make the models that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m vlmtrace.training.prior", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="model", help=f"which (default: all): {', '.join(COPIES)}")
    parser.add_argument("--seed", type=int, default=Further.seed, help="of the pictures")
    parser.add_argument("--steps", type=int, default=Further.steps, help="batches")
    parser.add_argument("--out", type=Path, default=MODELS, help="folder in which to write folders of models")
    arguments = parser.parse_args()
    for name in arguments.models:
        if name not in COPIES:
            parser.error(f"there is no model {name!r} with a planted prior: choose from {', '.join(COPIES)}")
    if arguments.steps < 1:
        parser.error("--steps is the number of batches: pass at least 1")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    torch.set_num_threads(1)  # more are no faster: the operations are small
    recipe = Further(steps=arguments.steps, seed=arguments.seed)
    try:
        for name in arguments.models or COPIES:
            print(f"{name}: {recipe.steps} batches", flush=True)
            world = WORLDS[name.partition("-")[0]]
            model = train_further(COPIES[name], world, recipe)
            print(save_with_card(model, COPIES[name], world, recipe, arguments.out / name), flush=True)
    except VlmtraceError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
