"""Make models whose circuit is known: `python -m vlmtrace.training.planted`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.paths import MODELS
from vlmtrace.training import tiny_blip, tiny_llava
from vlmtrace.training.options import check_numbers
from vlmtrace.training.planted import blip, llava
from vlmtrace.training.planted.card import save_with_card
from vlmtrace.training.planted.known import PLANTED
from vlmtrace.training.whole_folder import check_replaceable


def main(given: list[str] | None = None) -> None:
    """Make the models that the command line names.

    Args:
        given: the command line
    """
    parser = argparse.ArgumentParser(prog="python -m vlmtrace.training.planted", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="model", help=f"which (default: all): {', '.join(PLANTED)}")
    parser.add_argument(
        "--seed", type=int, default=0, help="of what distracts, and of the scenes that eyes are fitted on"
    )
    parser.add_argument("--out", type=Path, default=MODELS, help="folder in which to write folders of models")
    arguments = parser.parse_args(given)
    check_numbers(parser, None, arguments.seed)
    for name in arguments.models:
        if name not in PLANTED:
            parser.error(f"there is no planted model {name!r}: choose from {', '.join(PLANTED)}")
    try:
        for name in arguments.models or PLANTED:  # all of them before the first is made
            check_replaceable(arguments.out / name, "config.json")
    except VlmtraceError as error:
        sys.exit(f"Error: {error}")
    for name in arguments.models or PLANTED:
        _, kind, architecture = name.split("-")
        maker, processors = (llava, tiny_llava) if architecture == "llava" else (blip, tiny_blip)
        model, plan = maker.build(kind, arguments.seed)
        save_with_card(model, processors.processor(), plan, architecture, arguments.out / name)
        print(f"{name}: {plan.tells}")


if __name__ == "__main__":
    main()
