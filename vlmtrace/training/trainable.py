"""What a bundled model's module offers so that the model can be trained: architecture, tokens, forward pass."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


class TrainableModel(Protocol):
    """What the modules `tiny_blip` and `tiny_llava` offer.

    Shapes: B images with Q questions each; prompts and answers are padded to one length each.

    Attributes:
        NAME: the model's
        CLASS: of transformers
        BLOCKS: rows of the model card's table of layers
        LIMITS: a sentence of the model card: how to ask the model
        ALONG: sentences of the model card: what else is learnt
        UNSEEN: the beginning of a sentence of the model card: what is held out
        MIXTURE: share of the minimal pairs in a batch, by what changes in them
    """

    NAME: str
    CLASS: str
    BLOCKS: str
    LIMITS: str
    ALONG: str
    UNSEEN: str
    MIXTURE: dict[str, float]

    def build(self, seed: int) -> Any:
        """The transformers model before training."""

    def load(self, folder: str) -> Any:
        """The transformers model from its weights, to be trained further."""

    def patch_label_heads(self, model: Any) -> Any:
        """What learns along what stands at each patch: image embeddings, labels -> a loss for each kind of label."""

    def processor(self) -> Any:
        """The processor that is saved beside the weights."""

    def encode_prompt(self, prompt: str) -> list[int]:
        """Token ids of a question, padded."""

    def encode_answer(self, answer: str) -> list[int]:
        """Token ids: the token that the answer follows, the answer, its end; padded on the right."""

    def embed_images(self, model: Any, pixels: Tensor) -> Tensor:
        """(B, 1 + patches, width) from (B, height, width, 3) uint8; [CLS] first."""

    def answer_logits(self, model: Any, image_embeds: Tensor, prompt: Tensor, answer: Tensor) -> Tensor:
        """Logits (B, Q, answer - 1, vocabulary) of the tokens after each of the answer's but the last."""


@runtime_checkable
class AnswersWithoutImage(Protocol):
    """What the module of a model offers beside, if the model can be asked about sentences without an image."""

    def encode_text(self, sentences: str, prompt: str) -> list[int]:
        """Token ids of a question about what sentences describe, padded on the left."""

    def encode_answer(self, answer: str) -> list[int]:
        """As of `TrainableModel`."""

    def text_logits(self, model: Any, prompt: Tensor, answer: Tensor) -> Tensor:
        """Logits (N, answer - 1, vocabulary) of questions about sentences."""
