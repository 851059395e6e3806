"""Make models with a planted prior, and their controls: `python -m vlmtrace.training.prior`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch
import transformers

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.paths import MODELS, relative
from vlmtrace.models.made_here import check_made
from vlmtrace.training import tiny_blip, tiny_llava
from vlmtrace.training.options import check_numbers
from vlmtrace.training.prior.card import MARK, save_with_card
from vlmtrace.training.prior.further import Further, train_further
from vlmtrace.training.prior.smol import Upper, load_smol, train_upper
from vlmtrace.training.prior.smol_card import SMOL_LICENCE, save_smol
from vlmtrace.training.prior.world import WORLDS
from vlmtrace.training.smol.recipe import NAME
from vlmtrace.training.whole_folder import check_replaceable

#: The models, by name: what they are copies of. The world stands before the dash.
COPIES = {
    f"{world}-{bundled.NAME.removeprefix('tiny-')}": bundled for bundled in (tiny_blip, tiny_llava) for world in WORLDS
}
#: Those of the larger model, which is not in the repository.
SMOL = [f"{world}-{NAME}" for world in WORLDS]


def main() -> None:
    """Make the models that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m vlmtrace.training.prior", description=__doc__)
    known = [*COPIES, *SMOL]
    parser.add_argument("models", nargs="*", metavar="model", help=f"which (default: all): {', '.join(known)}")
    parser.add_argument("--seed", type=int, default=Further.seed, help="of the pictures")
    parser.add_argument("--steps", type=int, help=f"batches (default: {Further.steps}; of {NAME}: {Upper.steps})")
    parser.add_argument("--out", type=Path, default=MODELS, help="folder in which to write folders of models")
    arguments = parser.parse_args()
    for name in arguments.models:
        if name not in known:
            parser.error(f"there is no model {name!r} with a planted prior: choose from {', '.join(known)}")
    check_numbers(parser, arguments.steps, arguments.seed)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # more are no faster: the operations are small
    try:
        chosen = arguments.models or _all()
        for name in chosen:  # all of them before the first is trained
            _check(name, arguments.out / name)
        for name in chosen:
            make = _make_smol if name in SMOL else _make
            print(make(name, arguments.seed, arguments.steps, arguments.out / name), flush=True)
    except VlmtraceError as error:
        sys.exit(str(error))


def _all() -> list[str]:
    """All whose originals are here; a sentence on those that are left out."""
    if (MODELS / NAME / "config.json").is_file():
        return [*COPIES, *SMOL]
    print(f"{' and '.join(SMOL)} are left out, since {NAME} is not on this machine yet: run make {NAME} first.")
    return list(COPIES)


def _check(name: str, folder: Path) -> None:
    check_replaceable(folder, MARK)
    if name in SMOL:
        check_made(NAME)
        if not SMOL_LICENCE.is_file():
            raise VlmtraceError(f"There is no {relative(SMOL_LICENCE)}: run make {NAME} again, which restores it.")


def _make(name: str, seed: int, steps: int | None, folder: Path) -> str:
    recipe = Further(steps=steps or Further.steps, seed=seed)
    print(f"{name}: {recipe.steps} batches", flush=True)
    world = WORLDS[name.partition("-")[0]]
    model = train_further(COPIES[name], world, recipe)
    return save_with_card(model, COPIES[name], world, recipe, folder)


def _make_smol(name: str, seed: int, steps: int | None, folder: Path) -> str:
    recipe = Upper(steps=steps or Upper.steps, seed=seed)
    model, processor = load_smol()
    print(f"{name}: {recipe.steps} batches", flush=True)
    world = WORLDS[name.partition("-")[0]]
    train_upper(model, processor.tokenizer, world, recipe)
    return save_smol(model, processor, world, recipe, folder)


if __name__ == "__main__":
    main()
