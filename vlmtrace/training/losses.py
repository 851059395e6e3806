"""What the bundled models learn from: the answer's tokens, and what stands at every image patch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlmtrace.training.data import IGNORED, PADDING, PATCH_CLASSES


class PatchHeads(nn.Module):
    """Linear readouts of the image embeddings at every patch; they teach the vision encoder and are then dropped."""

    def __init__(self, width: int) -> None:
        """Start from random weights.

        Args:
            width: of the image embeddings
        """
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, len(classes)) for classes in PATCH_CLASSES.values())

    def forward(self, image_embeds: Tensor, labels: Tensor) -> Tensor:
        """Losses (heads,) of embeddings (B, 1 + 64, width) against labels (B, heads, 64)."""
        at_patches = image_embeds[:, 1:]
        losses = []
        for index, head in enumerate(self.heads):
            known = labels[:, index] != IGNORED
            chosen = labels[:, index][known]
            loss = F.cross_entropy(head(at_patches[known]).float(), chosen) if len(chosen) else at_patches.sum() * 0
            losses.append(loss)
        return torch.stack(losses)


class WordHeads(nn.Module):
    """What stands at every patch, read from the image's tokens by the embeddings of its words.

    A language model reads words: this draws the token of a patch that shows a red circle to the embeddings of
    "red" and "circle". Trains the projector and the embeddings; has no weights of its own.
    """

    TEMPERATURE = 12.0

    def __init__(self, project: Callable[[Tensor], Tensor], words: nn.Module, ids: dict[str, Tensor]) -> None:
        """Take what is trained from the model.

        Args:
            project: image embeddings (B, 1 + 64, width) -> the language model's tokens (B, 64, width)
            words: the embedding of the words
            ids: by kind of label, the token of each of its classes
        """
        super().__init__()
        self.project, self.ids = project, ids
        self._words = [words]  # in a list, so that its weights do not become this module's

    def forward(self, image_embeds: Tensor, labels: Tensor) -> Tensor:
        """Losses (heads,) of embeddings (B, 1 + 64, width) against labels (B, heads, 64)."""
        tokens = F.normalize(self.project(image_embeds), dim=-1)
        losses = []
        for index, ids in enumerate(self.ids.values()):
            known = labels[:, index] != IGNORED
            scores = self.TEMPERATURE * tokens[known] @ F.normalize(self._words[0](ids), dim=-1).mT
            losses.append(F.cross_entropy(scores, labels[:, index][known]) if known.any() else tokens.sum() * 0)
        return torch.stack(losses)


def answer_loss(logits: Tensor, answer: Tensor) -> Tensor:
    """Mean cross entropy over the answer's tokens, its end included: logits (…, answer - 1, V), answer (…, answer)."""
    return F.cross_entropy(logits.flatten(0, -2).float(), answer[..., 1:].flatten(), ignore_index=PADDING)


def is_generated(logits: Tensor, answer: Tensor) -> Tensor:
    """(…) bool: whether greedy decoding gives exactly this answer and ends."""
    target = answer[..., 1:]
    return ((logits.argmax(-1) == target) | (target == PADDING)).all(-1)
