"""One side of a comparison of two versions, run as a file by `versions`: this folder's code on another package.

It reads questions from its input, one a line in JSON, and writes its answers likewise. `prepare` loads a row's model
and does its work once; `turn` times it. A row that the package does not know is answered by a sentence.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any


def use_this_folder(checkout: Path) -> None:
    """Let `vlmtrace.benchmarks` be this folder, and everything else the package of a checkout."""
    benchmarks: Any = importlib.import_module("vlmtrace.benchmarks")
    found = Path(benchmarks.__file__).resolve().parents[2]
    if found != checkout.resolve():
        sys.exit(f"The package that is imported lies in {found}, not in {checkout}.")
    benchmarks.__path__ = [str(Path(__file__).resolve().parent)]


class Row:
    """A row of the comparison, ready to be timed."""

    def __init__(self, name: str, folder: Path):
        """Load the model and do the work once.

        Args:
            name: of the row: a model, a comma, and what is done with it
            folder: where random models and images are
        """
        from vlmtrace.benchmarks import measure, rates
        from vlmtrace.methods.patching.sweeps import patch_heads

        model_name, _, work = name.partition(", ")
        self.model = _model(model_name, folder)
        self.measure, self.rates = measure, rates
        if work == "whole road":
            pairs = _pairs(folder, 20)
            self.work: Callable[[], Any] = lambda: patch_heads(self.model, pairs, modules=[self.model.image_module])
        elif work in HEADS:
            pairs = _pairs(folder, 1)
            positions = HEADS[work]
            self.work = lambda: patch_heads(self.model, pairs, modules=[self.model.image_module], positions=positions)
        else:
            from vlmtrace.benchmarks import ways

            self.work = ways.interventions(self.model, _pairs(folder, 2))[work]
        self.table = self.work()
        self.one = None
        if work in HEADS:
            row = self.table.sample(1, random_state=0).to_dict("records")[0]
            ids = self.model.answer_ids(pairs["correct_answer"], pairs["incorrect_answer"])
            self.one = lambda: rates.published_patch(self.model, pairs, rates.one_patch(self.model, row), ids)

    def prepared(self) -> dict[str, Any]:
        """Patches, their effects in logits, and of a sweep the operations."""
        values = self.table["logit_diff"].tolist()
        found = {"patches": len(values), "values": values}
        return found if self.one is None else found | {"operations": self.measure.count_operations(self.work)}

    def turn(self) -> dict[str, float]:
        """Seconds of the work; beside a sweep, of a large matrix product and of one patch the published way."""
        found = {"seconds": self.measure.seconds(self.work)[0]}
        if self.one is not None:
            found["matmul_seconds"] = self.measure.matmul_seconds()
            found["published_seconds"] = self.measure.seconds(self.one)[0]
        return found


#: By what a row is called, the positions of its heads.
HEADS: dict[str, Any] = {"heads at all positions": "all", "heads at the option": ["correct"]}

WAYS = ("regions", "attention knock-outs", "joint patches", "whole heads", "sets of heads")

#: All rows, by size; the names of random models begin with "random".
ROWS = {
    "small": [
        "tiny-blip, heads at all positions",
        "tiny-llava, heads at all positions",
        "tiny-blip, whole road",
        *(f"{name}, {way}" for name in ("tiny-blip", "tiny-llava") for way in WAYS),
    ],
    "large": ["random base-size BLIP, heads at all positions"],
    "long": ["random LLaVA of 640 positions, heads at the option"],
    "deep": ["random LLaVA of 30 layers, heads at the option"],
}


def _model(name: str, folder: Path) -> Any:
    from vlmtrace.models.loading import load_model

    return load_model(folder / MADE[name] if name in MADE else name)


#: Random models by name, and the folders in which `make_models` puts them.
MADE = {
    "random base-size BLIP": "blip",
    "random LLaVA of 640 positions": "llava",
    "random LLaVA of 30 layers": "deep",
}


def _pairs(folder: Path, n: int) -> Any:
    import pandas as pd

    return pd.read_json(folder / "pairs.json", orient="records", dtype=False).iloc[:n]


def make_inputs(rows: list[str], folder: Path) -> None:
    """Make the random models of some rows and the pairs, for both versions."""
    from vlmtrace.benchmarks.random_models import blip_vqa_base, deep_llava, long_llava, noise_pairs

    makers = {
        "random base-size BLIP": blip_vqa_base,
        "random LLaVA of 640 positions": long_llava,
        "random LLaVA of 30 layers": deep_llava,
    }
    for name, make in makers.items():
        if any(row.startswith(name) for row in rows):
            make(folder / MADE[name])
    noise_pairs(folder / "images", 20).to_json(folder / "pairs.json", orient="records")


def main() -> None:
    """Answer questions until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    use_this_folder(Path(sys.argv[1]))
    row: Row | None = None
    for line in sys.stdin:
        question = json.loads(line)
        if question["do"] == "turn":
            assert row is not None
            answer: dict[str, Any] = row.turn()
        else:
            row = None  # the model before is not needed any more
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    row = Row(question["row"], Path(question["folder"]))
                    answer = row.prepared()
            except (ImportError, AttributeError, TypeError, KeyError) as error:
                answer = {"unknown": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
