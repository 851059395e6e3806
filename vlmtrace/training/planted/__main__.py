"""Make models whose circuit is known: `python -m vlmtrace.training.planted`."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlmtrace.core.paths import MODELS
from vlmtrace.training import tiny_blip, tiny_llava
from vlmtrace.training.planted import blip, llava
from vlmtrace.training.planted.card import save_with_card
from vlmtrace.training.planted.known import PLANTED


def main() -> None:
    """Make the models that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m vlmtrace.training.planted", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="model", help=f"which (default: all): {', '.join(PLANTED)}")
    parser.add_argument(
        "--seed", type=int, default=0, help="of what distracts, and of the scenes that eyes are fitted on"
    )
    parser.add_argument("--out", type=Path, default=MODELS, help="folder in which to write folders of models")
    arguments = parser.parse_args()
    for name in arguments.models or PLANTED:
        if name not in PLANTED:
            parser.error(f"there is no planted model {name!r}: choose from {', '.join(PLANTED)}")
        _, kind, architecture = name.split("-")
        maker, processors = (llava, tiny_llava) if architecture == "llava" else (blip, tiny_blip)
        model, plan = maker.build(kind, arguments.seed)
        save_with_card(model, processors.processor(), plan, architecture, arguments.out / name)
        print(f"{name}: {plan.tells}")


if __name__ == "__main__":
    main()
