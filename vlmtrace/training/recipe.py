"""Which models are trained, and the settings of their training."""

from __future__ import annotations

from dataclasses import dataclass

from vlmtrace.training import tiny_blip, tiny_llava
from vlmtrace.training.trainable import TrainableModel


@dataclass(frozen=True)
class Recipe:
    """What the training of a bundled model depends on.

    Attributes:
        steps: how many batches
        seed: of the weights and of the scenes
        processes: how many share the batch; the result depends on it, since each draws its own scenes
        n_pairs: minimal pairs in a step, two images each
        n_questions: about each image
        n_texts: questions about sentences in a step, where the model can be asked without an image
        learning_rate: the highest; AdamW's
        warmup: steps until it is reached; from there on it follows a cosine
        weight_decay: of matrices; AdamW's
        patch_weight: weight of the patch labels' loss at the start; it falls to a tenth
        ema: decay of the averaged weights, which are the ones that are kept
        start: a folder with weights of the same model to continue from; "": random weights
        score_every: steps between two measurements on held-out pairs
        score_pairs: held-out pairs of each task in a measurement
    """

    steps: int = 8500
    seed: int = 0
    processes: int = 2
    n_pairs: int = 32
    n_questions: int = 4
    n_texts: int = 0
    learning_rate: float = 1e-3
    warmup: int = 300
    weight_decay: float = 0.02
    patch_weight: float = 2.0
    ema: float = 0.998
    start: str = ""
    score_every: int = 500
    score_pairs: int = 168


#: The bundled models, by name.
TRAINABLE: dict[str, TrainableModel] = {tiny_blip.NAME: tiny_blip, tiny_llava.NAME: tiny_llava}

#: How each of them was trained.
RECIPES = {
    tiny_blip.NAME: Recipe(),
    tiny_llava.NAME: Recipe(
        steps=5000,
        n_pairs=20,
        n_questions=4,
        n_texts=96,
        learning_rate=2e-3,
        weight_decay=0.1,
        patch_weight=0.5,
    ),
}
