"""Token masking: one question whose tokens can be masked, and one square attention matrix over all of its tokens.

To mask a token is to block all attention to it, in every layer of the language side: nothing reads it any more, but
what other image tokens hold of it is still there. Image and question are masked in the same way in all models. Vision
encoders spread what they see: in the bundled models all patches of an object can be masked and the answer stays, since
other patches carry it, so that small sets that explain an answer are words.

In BLIP no single matrix holds image, question and answer. One is composed for a layer, with rows that sum to 1: an
image token attends to itself alone, since the layer leaves it as it is; a question token half to the question and half
to the image; the answer to the question. The head is that of the attention to the image; over the heads of the others
the mean is taken. The answer attends to a patch by way of the question: the product of both attentions.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.types import Array
from vlmtrace.inputs.pictures import prompt_of
from vlmtrace.inputs.token_roles import joined_words
from vlmtrace.models import VLM, Inputs, Token
from vlmtrace.models.attention_mask import cut
from vlmtrace.models.several_images import Images
from vlmtrace.models.vlm import repeat_inputs

#: Columns by which a token is named.
TOKEN_COLUMNS = ["kind", "position", "cell", "token", "word"]

#: Sets of tokens that share a forward pass.
BATCH = 32


class MaskableQuestion:
    """One question to a model whose tokens can be masked, at one token of its answer.

    Attributes:
        model: the model that is asked
        inputs: model inputs when that token is due (batch 1)
        tokens: one row per token that can be masked: kind ("image", "text"), position, cell, token, word, index (in
            `joint_attention`)
        target: the answer's token
        target_id: its id
    """

    def __init__(self, model: VLM, image: Images, prompt: str, answer: Sequence[int] | None, step: int):
        """Ask the question.

        Args:
            model: the model that is asked
            image: a path or a picture, or a list of several
            prompt: the question as a pairs table holds it, before a chat template
            answer: ids of the answer's tokens; None: the model's own greedy answer
            step: the token of the answer that is looked at, from 0
        Raises:
            VlmtraceError: there is no such step, or the model is of another kind than those that are followed
        """
        model.check_attention_is_followed("An explanation")
        self.model = model
        text = prompt_of(model, prompt, image)
        asked = model.encode([image], [text])
        ids = model.answer_tokens(asked) if answer is None else model.check_tokens(answer)
        if not 0 <= step < len(ids):
            raise VlmtraceError(f"step={step} does not exist: the answer to {prompt!r} has {len(ids)} tokens.")
        self.inputs = model.extend(asked, ids[:step])
        self.target_id = int(ids[step])
        self.target = self._name(self.target_id)
        self.tokens = _maskable_tokens(model, text, prompt, asked, step, image)

    @functools.cached_property
    def _image(self) -> Tensor | None:
        """What the language side reads of the image, the same whatever is masked; None: layers read more of it."""
        if self.model.injects_image_features_later:
            return None
        with torch.no_grad():
            return self.model.image_embeddings(self.inputs)

    def _name(self, token: int) -> str:
        return self.model.tokenizer.convert_ids_to_tokens([token])[0]

    def names(self, chosen: Sequence[int]) -> str:
        """Rows of `tokens` as text: "text red, image 3,4"."""
        return ", ".join(f"{row.kind} {row.token}" for row in self.tokens.iloc[list(chosen)].itertuples())

    def answers(self, sets: Sequence[tuple[int, ...]]) -> tuple[list[str], list[float]]:
        """Answer with sets of tokens masked.

        Args:
            sets: rows of `tokens` that are masked together
        Returns:
            for each set the token that the model gives, and the probability of `target`
        """
        names: list[str] = []
        chances: list[float] = []
        for first in range(0, len(sets), BATCH):
            batch = sets[first : first + BATCH]
            masked = np.zeros((len(batch), len(self.tokens)), dtype=bool)
            for row, chosen in enumerate(batch):
                masked[row, list(chosen)] = True
            inputs = repeat_inputs(self.inputs, len(batch))
            image = None if self._image is None else self._image.expand(len(batch), -1, -1)
            with torch.no_grad(), mask_tokens(self.model, inputs, self.tokens, masked):
                chance = self.model.answer_logits(inputs, image=image).softmax(-1)
            names += [self._name(token) for token in chance.argmax(-1).tolist()]
            chances += chance[:, self.target_id].tolist()
        return names, chances


def _maskable_tokens(model: VLM, text: str, prompt: str, inputs: Inputs, step: int, image: Images) -> pd.DataFrame:
    """The image's tokens and the question's words."""
    block = model.head_block.name
    found = model.tokens(block, text, inputs, image)
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
    at_image = np.flatnonzero(model.image_positions(inputs, model.image_block, image))
    seen = model.tokens(model.image_block, text, inputs, image)
    images = pd.DataFrame({"kind": "image", "position": at_image, "cell": range(len(at_image))})
    names = [_image_name(seen[i]) for i in at_image]
    images["token"] = images["word"] = names
    words = table[asked].assign(kind="text", position=np.flatnonzero(asked))
    tokens = pd.concat([images, words], ignore_index=True)[TOKEN_COLUMNS].astype({"cell": "Int64"})
    offset = 0 if one_sequence else len(at_image)
    return tokens.assign(index=tokens["position"] + np.where(tokens["kind"] == "text", offset, 0))


def _image_name(token: Token) -> str:
    """Where a token lies; of several images, behind the number of its own."""
    number = (token.role or "").removeprefix("image").strip()
    return f"{number}:{token.text}" if number.isdigit() else token.text


@contextlib.contextmanager
def mask_tokens(model: VLM, inputs: Inputs, tokens: pd.DataFrame, masked: Array) -> Iterator[None]:
    """While this is entered, no layer of the language side attends to masked tokens (except a token to itself).

    Args:
        model: the model that is run
        inputs: of a batch
        tokens: one row per token: kind ("image", "text"), position
        masked: (batch, token) bool
    """
    block = model.head_block
    layers = range(block.n_layers)

    def keys(kinds: Sequence[str], length: int) -> Tensor:
        chosen = tokens["kind"].isin(kinds).to_numpy()
        found = np.zeros((len(masked), length), dtype=bool)
        found[:, tokens["position"][chosen]] = masked[:, chosen]
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
    """Attention of a layer as one square matrix per head, over image, question and answer.

    Decoder-only models: the sequence as it is. BLIP: composed of three attentions, see the module's docstring.

    Args:
        model: the model that is run
        inputs: of one question (batch 1)
        layer: of the language side
    Returns:
        (head, token, token), rows sum to 1; the last token is the one that the answer is read from
    """

    def weights(block: str, module: str) -> Array:
        return model.attention(inputs, block, module)[layer, 0].double().cpu().numpy()

    block = model.head_block.name
    if model.image_module == "self_attention":
        return weights(block, "self_attention")
    question, seen = weights(block, "self_attention").mean(0), weights(block, "cross_attention")
    read = weights(model.answer_block, "cross_attention").mean(0)[-1]
    n_image, n_text = seen.shape[-1], len(question)
    joint = np.zeros((len(seen), *[n_image + n_text + 1] * 2))  # (head, token, token): image, question, answer
    text = slice(n_image, n_image + n_text)
    joint[:, :n_image, :n_image] = np.eye(n_image)
    joint[:, text, :n_image], joint[:, text, text] = seen / 2, question / 2
    joint[:, -1, text] = read
    return joint


def attention_paid(model: VLM, attention: Array, n_image: int) -> Array:
    """How much the answer attends to each token.

    Args:
        model: whose attention
        attention: (token, token), one head of `joint_attention`
        n_image: how many image tokens there are, where they stand first and are attended to by way of the question
    Returns:
        (token,)
    """
    paid = attention[-1].copy()
    if model.image_module != "self_attention":
        paid[:n_image] = attention[-1, n_image:] @ attention[n_image:, :n_image]
    return paid
