"""What a bundled model has to say about itself to be trained: its architecture, its words, its forward pass."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class TrainableModel(Protocol):
    """Met by the modules `blip` and `llava`.

    Shapes: B images with Q questions each, prompts and answers of one padded length.
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

    def encode_text(self, sentences: str, prompt: str) -> list[int] | None:
        """Token ids of a question about what sentences tell, padded; None: the model needs an image."""

    def embed_images(self, model: Any, pixels: Tensor) -> Tensor:
        """(B, 1 + patches, width) from (B, height, width, 3) uint8; [CLS] first."""

    def answer_logits(self, model: Any, image_embeds: Tensor, prompt: Tensor, answer: Tensor) -> Tensor:
        """Logits (B, Q, answer - 1, vocabulary) of the tokens after each of the answer's but the last."""

    def text_logits(self, model: Any, prompt: Tensor, answer: Tensor) -> Tensor:
        """Logits (N, answer - 1, vocabulary) of questions about sentences."""
