"""Relevancy maps: how much each image patch and each word of the prompt counted for each token of the answer.

After Chefer, Gur and Wolf 2021, "Generic attention-model explainability for interpreting bi-modal and encoder-decoder
transformers" (https://arxiv.org/abs/2103.15679). The attention of a layer, weighted by how much the token's logit y
would move with it, is

    Ā = mean over heads of (∂y/∂A ⊙ A)⁺                                          (eq. 5)

and relevancy R, at first the identity, follows the layers from the input to the answer:

    self-attention             R^ss ← R^ss + Ā R^ss,  R^sq ← R^sq + Ā R^sq        (eq. 6, 7)
    attention from s to q      R^sq ← R^sq + (R̄^ss)ᵀ Ā R̄^qq                      (eq. 10)
    what q has from x          R^sx ← R^sx + Ā R^qx                               (ours)

where R̄ is R with all but its identity scaled to rows of sum 1 (eq. 8, 9). Decoder-only models follow the first rule,
BLIP all three: the question attends to the image, the answer to the question.

The last rule is an extension of the paper's. Its eq. 11, R^ss ← R^ss + Ā R^qs, is the case x = s: what q has taken up
from s comes back to s, where both sequences attend to each other. That never happens in BLIP, whose image attends to no
word. The paper has no sequence that reads a second one that has read a third, as BLIP's answer reads the question that
has read the image; there the same product hands on R^qx instead of R^qs. As in eq. 11, R^qx is not normalized.

The gradient is that of each token's own raw logit, never added to another token's; nothing is kept on the model.
Relevance says where the answer came from by way of attention. It is no effect: for that, patch or mask what it shows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vlmtrace.core.arguments import Count, Natural, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.types import Array
from vlmtrace.inputs.pictures import prompt_of
from vlmtrace.inputs.token_roles import joined_words
from vlmtrace.methods.relevancy.rules import bimodal_relevancy, normalised, self_attention_relevancy
from vlmtrace.models import VLM, HookPoint, Inputs, Site, Token
from vlmtrace.models.hooks import attach_hooks
from vlmtrace.models.layer_kinds import check_has_weights
from vlmtrace.models.several_images import Images


@dataclass(frozen=True)
class Relevancy:
    """Relevance for each token of an answer (a step); all values are ≥ 0, in units of logits (attention × gradient).

    Attributes:
        answer: one row per step: token_id, token, word_index, word, logit
        tokens: one row per position of the block that reads the prompt: position, token, word_index, word, is_image
        image: (step, image position), through the language side alone; positions are those of `VLM.image_block`
        vision: (step, vision position), through the vision encoder alone: what its attention brought to the image's
            tokens, averaged over them. None: refused
        joined: (step, vision position), through both: `image`, each token's share handed on to the patches that the
            vision encoder made it of. Sums to what `image` has on tokens that stand for patches. None: refused
        prompt: (step, position); NaN at image positions
        previous: (step, step), of answer tokens before; 0 from the step on
        refused: why vision and joined are None, as a sentence
    """

    answer: pd.DataFrame
    tokens: pd.DataFrame
    image: Array
    prompt: Array
    previous: Array
    vision: Array | None = None
    joined: Array | None = None
    refused: str | None = None

    def table(self) -> pd.DataFrame:
        """All relevance as a tidy table.

        Returns:
            one row per step and position: step, answer_token, kind, position, token, word, relevance. kind is
            "image", "vision" or "joined" (position: row of `VLM.image_cells`; token and word missing), "prompt"
            (position in the block that reads the prompt) or "answer" (position: an earlier step)
        """
        text = self.tokens[~self.tokens["is_image"]]
        parts = []
        for step, answered in enumerate(self.answer["token"]):
            images = {"image": self.image, "vision": self.vision, "joined": self.joined}
            rows = [
                pd.DataFrame({"kind": kind, "position": range(found.shape[1]), "relevance": found[step]})
                for kind, found in images.items()
                if found is not None
            ]
            rows.append(text[["position", "token", "word"]].assign(kind="prompt"))
            rows[-1]["relevance"] = self.prompt[step, text["position"]]
            earlier = self.answer[["token", "word"]].iloc[:step]
            rows.append(earlier.assign(kind="answer", position=range(step), relevance=self.previous[step, :step]))
            parts.append(pd.concat([part for part in rows if len(part)]).assign(step=step, answer_token=answered))
        columns = ["step", "answer_token", "kind", "position", "token", "word", "relevance"]
        return pd.concat(parts, ignore_index=True)[columns]

    def words(self) -> pd.DataFrame:
        """Relevance of whole words of the prompt.

        Returns:
            one row per step and word: step, answer_token, word_index, word, relevance (summed over the word's tokens)
        """
        text = self.tokens[~self.tokens["is_image"]]
        parts = [
            text.assign(relevance=self.prompt[step, text["position"]])
            .groupby(["word_index", "word"], as_index=False)["relevance"]
            .sum()
            .assign(step=step, answer_token=answered)
            for step, answered in enumerate(self.answer["token"])
        ]
        columns = ["step", "answer_token", "word_index", "word", "relevance"]
        return pd.concat(parts, ignore_index=True)[columns]

    def shares(self) -> pd.DataFrame:
        """Image against text, through the language side.

        Returns:
            one row per step: step, answer_token, image, prompt, answer (summed relevance), image_share (the image's
            share of the three, missing where nothing was relevant at all)
        """
        found = {"image": self.image.sum(1), "prompt": np.nansum(self.prompt, 1), "answer": self.previous.sum(1)}
        table = pd.DataFrame({"step": range(len(self.answer)), "answer_token": self.answer["token"], **found})
        total = table[["image", "prompt", "answer"]].sum(axis=1)
        return table.assign(image_share=table["image"] / total.where(total > 0))


@checked
def relevancy(
    model: VLM,
    image: Images,
    prompt: str,
    answer: Sequence[Natural] | None = None,
    vision: bool = True,
    steps_at_once: Count = 8,
    max_new_tokens: Count = 8,
) -> Relevancy:
    """Relevance of image and prompt for every token of an answer.

    Attention weighted by its gradient, propagated through the layers (Chefer et al. 2021,
    https://arxiv.org/abs/2103.15679): one forward pass, and one backward pass for each token.

    Args:
        model: the model that is asked
        image: a path or a picture, or a list of several
        prompt: the question as a pairs table holds it, before a chat template
        answer: ids of the answer's tokens; None: the model's own greedy answer
        vision: also through the vision encoder, where the model allows (see `Relevancy.refused`)
        steps_at_once: tokens whose gradients are taken together. Memory: the graph of one forward pass that keeps all
            attention weights, layers × heads × positions² floats of each block, and as many for each token at once
        max_new_tokens: of the model's own answer
    Returns:
        relevance by step of the answer, with the tokens that it belongs to
    Raises:
        VlmtraceError: the answer is empty, the image cannot be read, or the model is of another kind than those

    Example:
        >>> import vlmtrace as vt
        >>> from vlmtrace.methods.relevancy import relevancy
        >>> model = vt.load_model("tiny-blip")
        >>> question = vt.load_questions("rendered_open", n=1).iloc[0]
        >>> found = relevancy(model, question["image"], question["prompt"])
        >>> found.image.shape, found.answer["word"].tolist()  # steps × image positions, the answer
        ((1, 65), ['red'])
    """
    model.check_attention_is_followed("Relevancy")
    text = prompt_of(model, prompt, image)
    inputs = model.encode([image], [text])
    ids = model.answer_tokens(inputs, max_new_tokens) if answer is None else model.check_tokens(answer)
    if not ids:
        raise VlmtraceError(f"{model.name} answers {prompt!r} with nothing: give the tokens of an answer.")
    refused = (
        _why_no_vision(model, inputs, image) if vision else "Relevance through the vision encoder was not asked for."
    )
    follow = _decoder_only if model.image_module == "self_attention" else _encoder_decoder
    patches = model.token_patches(inputs, image) if refused is None else None
    with attention_graph(model, inputs, ids, refused is None) as (logits, weights):
        chunks = [
            follow(model, inputs, chunk, weights, gradients, patches)
            for chunk, gradients in _gradients(logits, weights, steps_at_once)
        ]
        scores = logits.detach().cpu().numpy()
    found = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    return Relevancy(
        _answer_table(model, ids, scores), _prompt_table(model, text, inputs, image), **found, refused=refused
    )


# Attention weights and their gradients ------------------------------------------------------------


@checked
@contextlib.contextmanager
def attention_graph(
    model: VLM, inputs: Inputs, ids: Sequence[Natural], vision: bool
) -> Iterator[tuple[Tensor, dict[Site, Tensor]]]:
    """Run a model and keep the attention weights in the graph that the answer's logits come from.

    Args:
        model: the model that is run
        inputs: of one question (batch 1)
        ids: the answer's tokens
        vision: keep the vision encoder's weights too
    Yields:
        logits of the answer's tokens, (step,), and by site the attention weights, (1, head, query, key)
    """
    weights: dict[Site, Tensor] = {}
    blocks = [block for name, block in model.blocks.items() if vision or name != "vision_encoder"]
    check_has_weights(model.name, model.head_block)

    def keep(site: Site) -> Callable[..., None]:
        return lambda _module, _args, output: weights.__setitem__(site, output[1])

    def enter(value: Tensor) -> Tensor | None:
        # The parameters need no gradients, so what enters a block has to, unless it comes from a block that is watched.
        return None if value.requires_grad else value.detach().requires_grad_()

    points = [(HookPoint(model.layer_module(block.name, 0), is_input=True), enter) for block in blocks]
    with torch.enable_grad(), model.eager(), attach_hooks(points), contextlib.ExitStack() as stack:
        for block in blocks:
            for module in block.attention_modules:
                for layer in range(block.n_layers):
                    site = Site(block.name, module, layer)
                    handle = model.attention_module(site).register_forward_hook(keep(site))
                    stack.callback(handle.remove)
        logits = model.last_logits(model.extend(inputs, ids[:-1]), len(ids))[0]
        stack.close()
        yield logits[torch.arange(len(ids)), torch.as_tensor(ids)], weights


def _gradients(
    logits: Tensor, weights: dict[Site, Tensor], steps_at_once: int
) -> Iterator[tuple[range, dict[Site, Tensor]]]:
    """Steps, and by site the gradient of each step's own logit: (step, …) as the weights."""
    every = torch.eye(len(logits), device=logits.device)
    for first in range(0, len(logits), steps_at_once):
        chunk = range(first, min(first + steps_at_once, len(logits)))
        found = torch.autograd.grad(
            logits,
            list(weights.values()),
            grad_outputs=every[chunk.start : chunk.stop],
            is_grads_batched=True,
            retain_graph=chunk.stop < len(logits),
        )
        yield chunk, dict(zip(weights, found, strict=True))


class _Layers:
    """Attention weights of one pair, and their gradients, layer by layer."""

    def __init__(self, model: VLM, weights: dict[Site, Tensor], gradients: dict[Site, Tensor]):
        self.model, self.weights, self.gradients = model, weights, gradients

    def of(self, block: str, module: str, tiles: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """(head, query, key) and (step, head, query, key) a layer; with tiles as the dimension before head."""
        sites = [Site(block, module, layer) for layer in range(self.model.blocks[block].n_layers)]
        device = self.model.device  # layers may lie on several
        pairs = [(self.weights[site].detach().to(device), self.gradients[site].to(device)) for site in sites]
        if not tiles:
            pairs = [(weight[0], gradient[:, 0]) for weight, gradient in pairs]
        return [weight for weight, _ in pairs], [gradient for _, gradient in pairs]


# From layers to maps ------------------------------------------------------------


def _decoder_only(
    model: VLM,
    inputs: Inputs,
    chunk: range,
    weights: dict[Site, Tensor],
    gradients: dict[Site, Tensor],
    vision: Array | None,
) -> dict[str, Array]:
    layers = _Layers(model, weights, gradients)
    n_prompt, n_steps = inputs["input_ids"].shape[1], _n_steps(model, weights, inputs)
    # A token is read where the one before it stands; what has been there from the start is not counted.
    start = torch.eye(n_prompt + n_steps - 1, device=model.device)[[n_prompt - 1 + step for step in chunk]][:, None]
    row = (self_attention_relevancy(*layers.of(model.head_block.name, "self_attention"), rows=start) - start)[:, 0]
    is_image = torch.as_tensor(model.image_positions(inputs, model.head_block.name), device=model.device)
    prompt = row[:, :n_prompt]
    previous = torch.nn.functional.pad(row[:, n_prompt:], (0, 1))
    return _maps(model, inputs, layers, prompt[:, is_image], prompt.masked_fill(is_image, torch.nan), previous, vision)


def _encoder_decoder(
    model: VLM,
    inputs: Inputs,
    chunk: range,
    weights: dict[Site, Tensor],
    gradients: dict[Site, Tensor],
    vision: Array | None,
) -> dict[str, Array]:
    layers = _Layers(model, weights, gradients)

    def follow(block: str, attended: Tensor, mediated: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        inside, across = layers.of(block, "self_attention"), layers.of(block, "cross_attention")
        return bimodal_relevancy(*inside, *across, attended, mediated)

    n_image = weights[Site(model.head_block.name, "cross_attention", 0)].shape[-1]
    # Eq. 10 is linear in the image's own relevancy: the vision encoder is brought in afterwards (`_maps`).
    question, on_image, _ = follow(model.head_block.name, torch.eye(n_image, device=model.device))
    own, prompt, image = follow(model.answer_block, question, on_image)
    assert image is not None
    at = torch.arange(len(chunk)), torch.as_tensor(list(chunk))
    previous = own[at] - torch.eye(own.shape[-1], device=model.device)[list(chunk)]
    # The decoder's first position is its start token, which is no part of the answer.
    previous = torch.nn.functional.pad(previous[:, 1:], (0, 1))
    return _maps(model, inputs, layers, image[at], prompt[at], previous, vision)


def _maps(
    model: VLM, inputs: Inputs, layers: _Layers, image: Tensor, prompt: Tensor, previous: Tensor, vision: Array | None
) -> dict[str, Array]:
    maps = {"image": image, "prompt": prompt, "previous": previous}
    if vision is not None:
        patches = torch.as_tensor(vision, dtype=torch.float32, device=model.device)
        through = self_attention_relevancy(*layers.of("vision_encoder", "self_attention", tiles=True))
        by_tile = through.shape[1], through.shape[-1]
        placed = patches.sum(-1) > 0
        start = patches[placed].mean(0).unflatten(0, by_tile)[None, :, None]
        maps["vision"] = (start @ through - start).flatten(1)
        # R̄ has rows of sum 2 (or 1, where nothing came from elsewhere): scaled so that what a token has is kept.
        spread = normalised(through)
        spread = spread / spread.sum(-1, keepdim=True)
        handed = (image @ patches).unflatten(-1, by_tile)[:, :, None]
        maps["joined"] = (handed @ spread).flatten(1)
    return {name: found.cpu().double().numpy() for name, found in maps.items()}


def _n_steps(model: VLM, weights: dict[Site, Tensor], inputs: Inputs) -> int:
    length = weights[Site(model.head_block.name, "self_attention", 0)].shape[-1]
    return length - inputs["input_ids"].shape[1] + 1


def _why_no_vision(model: VLM, inputs: Inputs, image: Images) -> str | None:
    """Why there is no relevance through the vision encoder; None: there is."""
    if "vision_encoder" not in model.blocks:
        return f"The positions of {model.name}'s vision encoder are not known to be patches of the image."
    if "self_attention" not in model.blocks["vision_encoder"].attention_modules:
        return f"The vision encoder of {model.name} keeps its attention weights to itself."
    if model.token_patches(inputs, image) is None:
        return f"The image tokens of {model.name} stand for no particular patches."
    return None


# Tables ------------------------------------------------------------


def _answer_table(model: VLM, ids: Sequence[int], logits: Array) -> pd.DataFrame:
    texts = [model.tokenizer.decode(list(ids[:n]), clean_up_tokenization_spaces=False) for n in range(len(ids) + 1)]
    names = model.tokenizer.convert_ids_to_tokens(list(ids))
    ends = [len(text) for text in texts]
    tokens = [Token(name, span) for name, span in zip(names, pairwise(ends), strict=True)]
    table = pd.DataFrame({"token_id": ids, "token": names}).join(joined_words(tokens, texts[-1]))
    return table.assign(logit=logits)


def _prompt_table(model: VLM, text: str, inputs: Inputs, image: Images) -> pd.DataFrame:
    block = model.head_block.name
    tokens = model.tokens(block, text, inputs, image)
    table = pd.DataFrame({"position": range(len(tokens)), "token": [token.text for token in tokens]})
    return table.join(joined_words(tokens, text)).assign(is_image=model.image_positions(inputs, block, image))
