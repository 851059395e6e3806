"""One question to a model whose tokens can be hidden, and one square attention matrix over all of them.

To hide a token is to cut all attention to it, in every layer of the language side: nothing reads it any more, but what
other tokens of the image hold of it is still there. Image and question are hidden in the same way in all models. Vision
encoders spread what they see: in the bundled models all patches of an object can be hidden and the answer stays, since
others tell of it, so that small sets that explain an answer are words.

In BLIP no single matrix holds image, question and answer. One is put together for a layer, with rows that sum to 1: an
image token attends to itself alone, since the layer leaves it as it is; a question token half to the question and half
to the image; the answer to the question. The head is that of the attention to the image; of the others the mean over
heads is taken. What the answer pays a patch it pays by way of the question: the product along the way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.types import Array
from vlmtrace.inputs.token_roles import joined_words
from vlmtrace.models import VLM, Inputs
from vlmtrace.models.attention_mask import cut

TOKEN = ["kind", "position", "cell", "token", "word"]

#: Sets of tokens that share a forward pass.
BATCH = 32


class Example:
    """One question to a model, at one token of its answer.

    Attributes:
        inputs: as they are when that token is due
        tokens: those that can be hidden, one row each: kind, position, cell, token, word, index (in `joint_attention`)
        target: the token
    """

    def __init__(
        self, model: VLM, image: Image.Image | str | Path, prompt: str, answer: Sequence[int] | None, step: int
    ):
        self.model = model
        text = model.prompt_text(prompt)
        asked = model.encode([image], [text])
        ids = model.answer_tokens(asked) if answer is None else list(answer)
        if not 0 <= step < len(ids):
            raise VlmtraceError(f"step={step} does not exist: the answer to {prompt!r} has {len(ids)} tokens.")
        self.inputs = model.extend(asked, ids[:step])
        self.target_id = int(ids[step])
        self.target = self._name(self.target_id)
        self.tokens = _hideable(model, text, prompt, asked, step)

    def _name(self, token: int) -> str:
        return self.model.tokenizer.convert_ids_to_tokens([token])[0]

    def names(self, chosen: Sequence[int]) -> str:
        return ", ".join(f"{row.kind} {row.token}" for row in self.tokens.iloc[list(chosen)].itertuples())

    def answers(self, sets: Sequence[tuple[int, ...]]) -> tuple[list[str], list[float]]:
        """See `Answers`; sets are of rows of `tokens`."""
        names: list[str] = []
        chances: list[float] = []
        for first in range(0, len(sets), BATCH):
            batch = sets[first : first + BATCH]
            hidden = np.zeros((len(batch), len(self.tokens)), dtype=bool)
            for row, chosen in enumerate(batch):
                hidden[row, list(chosen)] = True
            inputs = {name: torch.cat([value] * len(batch)) for name, value in self.inputs.items()}
            with torch.no_grad(), hiding(self.model, inputs, self.tokens, hidden):
                chance = self.model.answer_logits(inputs).softmax(-1)
            names += [self._name(token) for token in chance.argmax(-1).tolist()]
            chances += chance[:, self.target_id].tolist()
        return names, chances


def _hideable(model: VLM, text: str, prompt: str, inputs: Inputs, step: int) -> pd.DataFrame:
    """The image's tokens and the question's words."""
    block = model.head_block.name
    found = model.tokens(block, text, inputs)
    table = pd.DataFrame({"token": [token.text for token in found]}).join(joined_words(found, text))
    # Chat templates may trim a prompt.
    first = max(0, text.rfind(prompt.strip()))
    last = first + len(prompt.strip())
    asked = [
        token.role in (None, "last") and first < token.span[1] and token.span[0] < last and bool(word)
        for token, word in zip(found, table["word"], strict=True)
    ]
    one_sequence = model.image_module == "self_attention"
    if one_sequence and step == 0:
        asked[-1] = False  # the answer is read from there
    at_image = np.flatnonzero(model.image_positions(inputs, model.image_block))
    seen = model.tokens(model.image_block, text, inputs)
    images = pd.DataFrame({"kind": "image", "position": at_image, "cell": range(len(at_image))})
    images["token"] = images["word"] = [seen[i].text for i in at_image]
    words = table[asked].assign(kind="text", position=np.flatnonzero(asked))
    tokens = pd.concat([images, words], ignore_index=True)[TOKEN].astype({"cell": "Int64"})
    offset = 0 if one_sequence else len(at_image)
    return tokens.assign(index=tokens["position"] + np.where(tokens["kind"] == "text", offset, 0))


@contextlib.contextmanager
def hiding(model: VLM, inputs: Inputs, tokens: pd.DataFrame, hidden: Array) -> Iterator[None]:
    """While this is entered, no layer of the language side attends to what is hidden (but a token to itself).

    Args:
        inputs: of a batch
        tokens: kind and position of the tokens
        hidden: (batch, token) bool
    """
    block = model.head_block
    layers = range(block.n_layers)

    def keys(kinds: Sequence[str], length: int) -> Tensor:
        chosen = tokens["kind"].isin(kinds).to_numpy()
        found = np.zeros((len(hidden), length), dtype=bool)
        found[:, tokens["position"][chosen]] = hidden[:, chosen]
        return torch.as_tensor(found, device=model.device)

    length = inputs["input_ids"].shape[1]
    one_sequence = model.image_module == "self_attention"
    own = keys(["image", "text"] if one_sequence else ["text"], length)
    others = ~torch.eye(length, dtype=torch.bool, device=model.device)
    with contextlib.ExitStack() as stack:
        stack.enter_context(cut(model, "self_attention", layers, own[:, None] & others))
        if not one_sequence:
            image = keys(["image"], int((tokens["kind"] == "image").sum()))
            stack.enter_context(cut(model, "cross_attention", layers, image[:, None].expand(-1, length, -1)))
            n_answer = inputs["decoder_input_ids"].shape[1] if "decoder_input_ids" in inputs else 1
            read = own[:, None].expand(-1, n_answer, -1)
            answers = range(model.blocks[model.answer_block].n_layers)
            stack.enter_context(cut(model, "cross_attention", answers, read, model.answer_block))
        yield


def joint_attention(model: VLM, inputs: Inputs, layer: int) -> Array:
    """Attention of a layer as square matrices (head, token, token), rows sum to 1; the last token is the answer's.

    Decoder-only models: the sequence as it is. BLIP: image, question and answer, see above.
    """

    def weights(block: str, module: str) -> Array:
        return model.attention(inputs, block, module)[layer, 0].double().cpu().numpy()

    block = model.head_block.name
    if model.image_module == "self_attention":
        return weights(block, "self_attention")
    question, seen = weights(block, "self_attention").mean(0), weights(block, "cross_attention")
    read = weights(model.answer_block, "cross_attention").mean(0)[-1]
    n_image, n_text = seen.shape[-1], len(question)
    joint = np.zeros((len(seen), *[n_image + n_text + 1] * 2))
    text = slice(n_image, n_image + n_text)
    joint[:, :n_image, :n_image] = np.eye(n_image)
    joint[:, text, :n_image], joint[:, text, text] = seen / 2, question / 2
    joint[:, -1, text] = read
    return joint


def attention_paid(model: VLM, attention: Array, n_image: int) -> Array:
    """What the answer attends to, in one head's `joint_attention` (token, token): (token,).

    Args:
        n_image: how many image tokens there are, where they stand first and are attended to by way of the question
    """
    paid = attention[-1].copy()
    if model.image_module != "self_attention":
        paid[:n_image] = attention[-1, n_image:] @ attention[n_image:, :n_image]
    return paid
