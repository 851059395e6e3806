"""What the commands that train refuse in a sentence, before anything is trained or replaced."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import read_json
from vlmtrace.pipeline.checks import MOST_SEED
from vlmtrace.training.trainable import TrainableModel


def check_numbers(parser: argparse.ArgumentParser, steps: int | None, seed: int) -> None:
    """End the command with a sentence if no training can have these numbers.

    Args:
        parser: of the command line
        steps: how many batches; None: the recipe's
        seed: of what is drawn
    """
    if steps is not None and steps < 1:
        parser.error("--steps is the number of batches: pass at least 1")
    if not 0 <= seed <= MOST_SEED:
        parser.error(f"--seed is a whole number that is not negative, and at most {MOST_SEED}")


def check_start(trainable: TrainableModel, folder: str) -> None:
    """Load the weights that a training is to go on from, once: its processes would fail one by one.

    Args:
        trainable: the model that is trained
        folder: with its weights; "": it begins from nothing

    Raises:
        VlmtraceError: there is no such folder, or it holds no weights of this model
    """
    if not folder:
        return
    config, refused = (
        Path(folder) / "config.json",
        f"--start {folder}: no weights of {trainable.NAME} can be read there",
    )
    if not config.is_file():
        raise VlmtraceError(
            f"{refused}, since there is no {paths.relative(config)}: name the folder of a trained model."
        )
    found = read_json(config)
    kinds = found.get("architectures") if isinstance(found, dict) else None
    words = len(trainable.processor().tokenizer)
    try:
        if kinds != [trainable.CLASS]:
            raise ValueError(f"it is of {' and '.join(map(str, kinds or ['nothing']))}, not of {trainable.CLASS}")
        model = trainable.load(folder)
        if model.get_input_embeddings().num_embeddings != words:
            raise ValueError(f"it knows {model.get_input_embeddings().num_embeddings} words and pieces, not {words}")
    except Exception as error:  # a damaged file, sizes that do not fit, …: transformers and safetensors have many
        why = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise VlmtraceError(f"{refused} ({why}): name the folder of a trained model.") from error


def check_teacher() -> Path:
    """The folder of tiny-blip, whose vision encoder tiny-llava's vision tower is fitted to.

    Raises:
        VlmtraceError: its weights are not there
    """
    teacher = paths.MODELS / "tiny-blip"
    if not (teacher / "model.safetensors").is_file():
        raise VlmtraceError(
            f"tiny-llava's vision encoder is fitted to tiny-blip's, and there are no weights in "
            f"{paths.relative(teacher)}: restore them (git checkout), or train tiny-blip first."
        )
    return teacher
