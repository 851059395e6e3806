"""What tells noun and color of a patch from the embeddings of a trained vision encoder: linear functions, fitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmtrace.tasks.rendered.pairs import sample
from vlmtrace.tasks.rendered.words import COLORS, NOUNS
from vlmtrace.training.data import IGNORED, PATCH_CLASSES, patch_labels
from vlmtrace.training.planted.plan import REST, SHARPNESS

#: Scenes that readings are fitted on; of the split that is neither for training nor for tests.
N_SCENES, SPLIT = 6000, "validation"

#: Logit of a certainty that counts as a full match.
CERTAIN = 8.0
#: The same of what stands before the patches.
CERTAIN_START = 32.0


class Reading(NamedTuple):
    """What a linear function of a patch's embedding says about it.

    Attributes:
        weight: (words, width); the nouns, then the colors, then whether it is no patch but stands before them
        bias: (words,)
    """

    weight: Tensor
    bias: Tensor

    def of(self, rows: slice) -> Reading:
        """Some of the words.

        Args:
            rows: `OF_NOUNS`, `OF_COLORS` or `OF_START`
        """
        return Reading(self.weight[rows], self.bias[rows])


_N, _ALL = len(NOUNS), len(NOUNS) + len(COLORS)
OF_NOUNS, OF_COLORS, OF_START = slice(0, _N), slice(_N, _ALL), slice(_ALL, _ALL + 1)


def fit_certainty(embeddings: Tensor, wanted: Tensor, seed: int = 0) -> Reading:
    """How certain it is that a patch shows each word, by logistic regression; 0: as likely as not.

    Args:
        embeddings: (N, width)
        wanted: (N, words), 1 where a patch shows the word
        seed: of the order in which patches are shown
    """
    linear = nn.Linear(embeddings.shape[1], wanted.shape[1])
    _fit(linear, embeddings / embeddings.std(), wanted, F.binary_cross_entropy_with_logits, seed)
    return Reading((linear.weight / embeddings.std()).detach(), linear.bias.detach())


def fit_projector(projector: nn.Module, embeddings: Tensor, wanted: Tensor, seed: int = 0) -> None:
    """Train a projector to give certainty of each noun, in units of `CERTAIN`, and the share of each color.

    Args:
        projector: from an embedding to a number for each word
        embeddings: (N, width)
        wanted: (N, words), 1 where a patch shows the word
        seed: of the order in which patches are shown
    """

    def loss(found: Tensor, wanted: Tensor) -> Tensor:
        nouns = F.binary_cross_entropy_with_logits(found[:, OF_NOUNS] * CERTAIN, wanted[:, OF_NOUNS])
        return nouns + 5 * F.mse_loss(found[:, OF_COLORS], wanted[:, OF_COLORS])

    _fit(projector, embeddings, wanted, loss, seed, rate=3e-3, steps=2500)


def fit_finder(
    certainty: Reading, share: Reading, embeddings: Tensor, wanted: Tensor, seed: int = 0, rows: int = 65
) -> tuple[Reading, Reading]:
    """Go on fitting both for what a head makes of them: the colors of patches, weighed by their certainty of a noun.

    Args:
        certainty: where it starts from
        share: where it starts from
        embeddings: (N, width)
        wanted: (N, words), 1 where a patch shows the word
        seed: of the order in which pictures are shown
        rows: of a picture

    Returns:
        certainty and share
    """
    pictures, shown = embeddings.unflatten(0, (-1, rows)), wanted.unflatten(0, (-1, rows))
    nouns, colors = shown[..., OF_NOUNS], shown[..., OF_COLORS]
    together = torch.einsum("brn,brc->bnc", nouns, colors)
    color_of = F.one_hot(together.argmax(-1), len(COLORS)).float()  # (B, nouns, colors)
    is_there = (nouns.sum(1) > 0).float()  # (B, nouns)
    scale = embeddings.std()
    parts = [certainty.weight * scale, certainty.bias, share.weight * scale, share.bias]
    parts = [part.clone().requires_grad_() for part in parts]
    steps, generator = 1500, torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(parts, lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.enable_grad():
        for _ in range(steps):
            some = torch.randint(len(pictures), (64,), generator=generator)
            seen = pictures[some] / scale
            sure = F.linear(seen, parts[0], parts[1])
            scores = sure[..., OF_NOUNS] * SHARPNESS / CERTAIN + sure[..., OF_START] * REST / CERTAIN_START
            weights = scores.softmax(1)  # (B, rows, nouns)
            found = torch.einsum("brn,brc->bnc", weights, F.linear(seen, *parts[2:])[..., OF_COLORS])
            wrong = (found - color_of[some]).square().sum(-1) * is_there[some]
            # Certainty is to stay what it is called.
            named = F.binary_cross_entropy_with_logits(sure, shown[some])
            optimizer.zero_grad()
            (wrong.sum() / is_there[some].sum() + named).backward()
            optimizer.step()
            schedule.step()
    parts = [part.detach() for part in parts]
    return Reading(parts[0] / scale, parts[1]), Reading(parts[2] / scale, parts[3])


def _fit(
    module: nn.Module,
    embeddings: Tensor,
    wanted: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    seed: int,
    rate: float = 0.05,
    steps: int = 800,
    n: int = 2048,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.enable_grad():
        for _ in range(steps):
            rows = torch.randint(len(embeddings), (n,), generator=generator)
            optimizer.zero_grad()
            loss(module(embeddings[rows]), wanted[rows]).backward()
            optimizer.step()
            schedule.step()


def fit_share(embeddings: Tensor, wanted: Tensor) -> Reading:
    """How much of each word a patch shows, 0 or 1, by least squares.

    Args:
        embeddings: (N, width)
        wanted: (N, words)
    """
    with_one = torch.cat([embeddings, torch.ones(len(embeddings), 1)], dim=1)
    solution = torch.linalg.lstsq(with_one, wanted).solution
    return Reading(solution[:-1].T.contiguous(), solution[-1])


@torch.no_grad()
def labelled_patches(embed: Callable[[Tensor], Tensor], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Embeddings (N, width) of patches, and (N, words) which words they show.

    Args:
        embed: embeddings (B, 64 or more, width) of pictures (B, 3, 96, 96) in [-1, 1]; rows before the last 64 are no
            patches
        seed: of the scenes
    """
    pixels, labels = [], []
    for index in range(N_SCENES // 2):
        pair = sample("rendered_states", seed, index, SPLIT)
        for scene in (pair.clean, pair.corrupt):
            image = scene.render()
            pixels.append(image.pixels)
            labels.append(patch_labels(image, scene)[:2])
    embeddings = torch.cat(
        [embed(scaled(torch.from_numpy(np.stack(pixels[i : i + 100])))) for i in range(0, len(pixels), 100)]
    )
    nouns, colors = torch.from_numpy(np.stack(labels)).unbind(1)  # (B, 64)
    colors = torch.where(colors == IGNORED, -1, colors)
    shown = torch.cat(
        [
            F.one_hot(nouns, len(PATCH_CLASSES["thing"]))[..., 1 : 1 + len(NOUNS)],
            F.one_hot(colors + 1, len(COLORS) + 1)[..., 1:],
            torch.zeros_like(nouns)[..., None],
        ],
        dim=-1,
    )
    before = torch.zeros(len(shown), embeddings.shape[1] - shown.shape[1], shown.shape[-1], dtype=shown.dtype)
    before[..., -1] = 1
    return embeddings.flatten(0, 1), torch.cat([before, shown], dim=1).flatten(0, 1).float()


def scaled(pixels: Tensor) -> Tensor:
    """(B, 3, 96, 96) in [-1, 1] from (B, 96, 96, 3) uint8, as the bundled models' processors make them.

    Args:
        pixels: of pictures
    """
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
