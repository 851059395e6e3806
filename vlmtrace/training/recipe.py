"""The training loop of the bundled models, shared by a few single-threaded processes.

Each process renders its own share of the batch and computes its gradients; the gradients are averaged. On two
cores this is about twice as fast as one process with two threads, since the operations are small.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """What the training of a bundled model depends on.

    Attributes:
        n_texts: questions about sentences in a step, where the model can be asked without an image
        processes: how many share the batch; the result depends on it, since each draws its own scenes
        n_pairs, n_questions: minimal pairs in a step (two images each), and questions about each image
        patch_weight: weight of the auxiliary patch heads' loss at the start; it falls to a tenth
        ema: decay of the averaged weights, which are the ones that are kept
        start: a folder with weights of the same model to go on from; "": from nothing
        score_every, score_pairs: how often to look at held-out pairs, and at how many of each task
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
