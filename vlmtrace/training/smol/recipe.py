"""What the training of smol-llava depends on."""

from __future__ import annotations

from dataclasses import dataclass

NAME = "smol-llava"

#: Share of the minimal pairs in a batch, by what changes in them. Textures are learned last.
MIXTURE = {
    "color": 0.16, "shape": 0.11, "texture": 0.25, "emotion": 0.04, "subject": 0.1, "verb": 0.11, "object": 0.17,
    "count": 0.06,
}  # fmt: skip

#: Least share of questions right, and of pairs right on both sides, of a category and of held-out combinations.
BARS = (0.95, 0.9)


@dataclass(frozen=True)
class Recipe:
    """The settings of a training; every batch follows from them and its number.

    Attributes:
        steps: how many batches
        seed: of the weights and of the scenes
        n_pairs: minimal pairs in a step, two images each
        n_questions: about each image
        n_told: questions in a step about scenes that sentences describe, without an image
        n_own: texts in a step that the language model wrote before it was trained, so that it forgets less
        told_weight: of the loss of what is told
        own_weight: of the loss of its own texts
        learning_rate: of the projector, at its highest; AdamW's
        adapter_rate: of the adapter, likewise
        warmup: steps until both are reached; from there on they follow a cosine
        weight_decay: of the projector
        rank: of the adapter (Hu et al. 2022, LoRA, https://arxiv.org/abs/2106.09685)
        alpha: what it adds is multiplied by alpha / rank
        ema: decay of the averaged weights, which are the ones that are kept
        score_every: steps between two measurements on held-out pairs
        score_pairs: held-out pairs of each task in a measurement
        save_minutes: between two checkpoints
        start: a folder with projector and adapter to go on from; "": from nothing
    """

    steps: int
    n_pairs: int
    n_told: int
    seed: int = 0
    n_questions: int = 8
    n_own: int = 4
    told_weight: float = 0.5
    own_weight: float = 0.5
    learning_rate: float = 1e-3
    adapter_rate: float = 5e-4
    warmup: int = 60
    weight_decay: float = 0.01
    rank: int = 16
    alpha: int = 32
    ema: float = 0.995
    score_every: int = 250
    score_pairs: int = 96
    save_minutes: float = 4
    start: str = ""


#: By kind of device: large batches where they cost no more time.
RECIPES = {
    "cpu": Recipe(steps=2300, n_pairs=4, n_told=8),
    "cuda": Recipe(steps=1800, n_pairs=32, n_told=64, n_own=32),
}
