"""Words in patches: which words the residual stream, and what a head reads and writes, stands for at a position.

Every reading decodes a vector of the residual stream through the final norm (its scale frozen at that position's own)
and the unembedding:

- `input`: what enters the layer, the logit lens on image tokens (nostalgebraist 2020,
  https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens).
- `key` and `value`: the part of what enters that the head's key, or value, can see. Both are linear in the input once
  the scale of the layer's norm is frozen, k = M x with M = W_K · norm; what M does not see of x changes no key. The
  vector that is read is the orthogonal projection of x on the row space of M, M⁺M x: the smallest one that has the
  same key.
- `output`: the value output, the head's value at this position through its slice of the output projection: what the
  head would write if it attended to this position alone.

An image token enters where word embeddings do. Where embedding and unembedding are not one matrix, what it means there
may be read better as the word whose embedding has the most similar direction (cosine): `through="embedding"`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from vlmtrace.core.arguments import Count, Natural, NonEmpty, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.progress import counter
from vlmtrace.core.types import Array
from vlmtrace.methods.lens.decomposition import BLOCK, READ_AT_ONCE, Lens, token_text
from vlmtrace.methods.lens.frozen_norm import FrozenNorm
from vlmtrace.methods.lens.map_scores import tokens_on_object
from vlmtrace.methods.lens.questions import check_questions, lens_of
from vlmtrace.models import VLM, Site
from vlmtrace.models.weight_values import weight_of

#: What can be read at a position; the first of a layer, the others of one of its heads.
QUANTITIES = ("input", "key", "value", "output")

#: By which matrix a vector is turned into words.
THROUGH = ("unembedding", "embedding")

#: Where words are counted: tokens that show the object, those that do not, and the position that predicts the answer.
PLACES = ("object", "elsewhere", "answer")

#: What a family calls the norm in front of its attention.
NORMS_BEFORE = ("input_layernorm", "self_attn_layer_norm")


@checked
@torch.no_grad()
def stream_vectors(lens: Lens, quantity: str, layer: Natural, head: Natural = 0) -> Tensor:
    """The vectors of the residual stream that a reading decodes.

    Args:
        lens: one run
        quantity: "input" (what enters the layer), "key" or "value" (the part of it that the head's key or value can
            see), or "output" (what the head would write if it attended to that position alone)
        layer: 0 to L; at L, where only "input" exists, what leaves the last layer
        head: of the layer; not used for "input"
    Returns:
        (T, D), one vector for each position
    Raises:
        VlmtraceError: there is no such quantity, layer or head
    """
    one_of(quantity, QUANTITIES, "quantity to read")
    n_layers, n_heads = len(lens.heads), lens.heads.shape[2]
    if not 0 <= layer < n_layers + (quantity == "input") or not 0 <= head < n_heads:
        raise VlmtraceError(
            f"There is no head {layer}.{head} of {lens.model.name}: its layers are 0 to {n_layers - 1}, its heads 0 to "
            f"{n_heads - 1}."
        )
    if quantity == "input":
        return lens.hidden[layer]
    if quantity == "output":
        return lens.value_outputs(layer, head)
    entering = lens.hidden[layer]
    seen = torch.linalg.pinv(head_input_map(lens, quantity, layer, head).double())
    # M⁺M is symmetric, whatever the position's scale: one projection serves all positions.
    projection = (seen @ head_input_map(lens, quantity, layer, head).double()).float()
    return entering @ projection


def head_input_map(lens: Lens, quantity: str, layer: int, head: int) -> Tensor:
    """The matrix M from what enters a layer to a head's key or value, but for the norm's scale and biases.

    Query heads that share a key head have the same matrix.

    Args:
        lens: one run
        quantity: "key" or "value"
        layer: of the head
        head: of the layer
    Returns:
        (width of a head, D)
    """
    module = lens.model.attention_module(Site(BLOCK, "self_attention", layer))
    weight = weight_of(getattr(module, {"key": "k_proj", "value": "v_proj"}[quantity])).to(lens.hidden.device)
    size = lens.heads.shape[-1]
    shared = head // (lens.heads.shape[2] // lens.keys.shape[2])
    before = norm_before(lens, layer)
    seen = weight[shared * size : (shared + 1) * size] * before.gain
    # What subtracts the mean from x subtracts it from the rows of the matrix that meets x.
    return seen - seen.mean(-1, keepdim=True) if before.centred else seen


def norm_before(lens: Lens, layer: int) -> FrozenNorm:
    """The norm in front of a layer's attention, frozen at what enters the layer.

    Raises:
        VlmtraceError: the model's layers have no such norm
    """
    module = lens.model.layer_module(BLOCK, layer)
    norm = next((getattr(module, name) for name in NORMS_BEFORE if hasattr(module, name)), None)
    if norm is None:
        raise VlmtraceError(
            f"The layers of {lens.model.name} have no norm in front of their attention that the lens knows, so what a "
            "head reads is unknown: read the layer's input or the head's output."
        )
    return FrozenNorm.of(norm, lens.hidden[layer])


# Words ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def word_scores(lens: Lens, vectors: Tensor, positions: Tensor, through: str = "unembedding") -> Tensor:
    """How well each word of the vocabulary fits some vectors.

    Args:
        lens: one run
        vectors: (n, D)
        positions: (n,): where they stand
        through: "unembedding" gives probabilities, "embedding" the cosine to each word's embedding
    Returns:
        (n, vocabulary)
    """
    fits = _fits(lens, vectors, positions, through)
    return fits.softmax(-1) if through == "unembedding" else fits


def _fits(lens: Lens, vectors: Tensor, positions: Tensor, through: str) -> Tensor:
    """Logits, or cosines: (n, vocabulary)."""
    if one_of(through, THROUGH, "way to read words") == "unembedding":
        return lens.read(vectors, positions)
    words = weight_of(lens.model.hf.get_input_embeddings()).to(vectors.device)
    return torch.nn.functional.normalize(vectors.float(), dim=-1) @ torch.nn.functional.normalize(words, dim=-1).T


@checked
def decode_to_words(
    lens: Lens, vectors: Tensor, positions: Sequence[int], k: Count = 5, through: str = "unembedding"
) -> pd.DataFrame:
    """Decode vectors of the residual stream into the k words that fit best.

    Args:
        lens: one run
        vectors: (T, D), one for each position (see `stream_vectors`)
        positions: those to decode
        k: how many words for each
        through: by which matrix, one of `THROUGH`
    Returns:
        one row per position and rank: position, rank (from 1), token_id, word, score (probability, or cosine)
    """
    at = torch.tensor(list(positions), device=vectors.device)
    tables = []
    for place in at.split(64):
        scores, ids = word_scores(lens, vectors[place], place, through).topk(k)
        tables.append(
            pd.DataFrame(
                {
                    "position": place.repeat_interleave(k).cpu().numpy(),
                    "rank": np.tile(np.arange(1, k + 1), len(place)),
                    "token_id": ids.flatten().cpu().numpy(),
                    "word": [token_text(lens.model, token) for token in ids.flatten().tolist()],
                    "score": scores.flatten().cpu().numpy(),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


@torch.no_grad()
def word_ranks(
    lens: Lens,
    tokens: Sequence[int],
    quantity: str = "input",
    head: int = 0,
    through: str = "unembedding",
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
) -> Array:
    """Rank of the best-placed of some tokens at layers and positions; 1: it fits best.

    The whole vocabulary is read for each layer and position: with large vocabularies, ask for those you need.

    Args:
        lens: one run
        tokens: ids, e.g. of the right word with and without a space before it
        quantity: one of `QUANTITIES`
        head: of each layer; not used for "input"
        through: by which matrix, one of `THROUGH`
        layers: of the ranks; None: all, and of "input" what leaves the last layer, too
        positions: of the ranks; None: all
    Returns:
        (layer, position), in the order asked for; of "input" and all layers, the last row is what leaves the last one
    """
    asked = range(len(lens.heads) + (quantity == "input")) if layers is None else layers
    at = torch.as_tensor(list(range(lens.hidden.shape[1]) if positions is None else positions), dtype=torch.long)
    at = at.to(lens.hidden.device)
    # All layers in a few products: each reads the whole matrix of words.
    vectors = torch.cat([stream_vectors(lens, quantity, layer, head)[at] for layer in asked])
    places = at.repeat(len(asked))
    size = max(1, READ_AT_ONCE // len(lens.logits))
    found = []
    for part, place in zip(vectors.split(size), places.split(size), strict=True):
        # Logits order words as probabilities do, and stay apart where probabilities round to 0.
        scores = _fits(lens, part, place, through)
        best = scores[:, list(tokens)].amax(-1, keepdim=True)
        found.append((scores > best).sum(-1) + 1)
    return torch.cat(found).view(len(asked), len(at)).cpu().numpy()


def first_layers(ranks: Array, at_most: int = 1) -> Array:
    """The first layer at which a word is among the best at each position.

    Args:
        ranks: (layer, position), from `word_ranks`
        at_most: the rank up to which it counts
    Returns:
        (position,), missing where it never is
    """
    reached = ranks <= at_most
    return np.where(reached.any(0), reached.argmax(0), np.nan)


@checked
def word_layers(
    model: VLM,
    questions: pd.DataFrame,
    at_most: Count = 5,
    through: NonEmpty[str] = THROUGH,
    prefix: str = "",
    *,
    layers: NonEmpty[Natural] | None = None,
    places: NonEmpty[str] = PLACES,
) -> pd.DataFrame:
    """Share of image tokens at which the right word is among the first, layer by layer, on the object and elsewhere.

    The whole vocabulary is read at each layer and position, which takes most of the time where it is large: ask for the
    layers and places you need.

    Args:
        model: a decoder-only model
        questions: sample_id, image, prompt, answer (the right word), object_mask
        at_most: the rank up to which a word counts as read
        through: by which matrices, of `THROUGH`
        prefix: the beginning of an answer, put behind every prompt
        layers: 0 to L, where L is what leaves the last layer; None: all. One that is named twice is read once
        places: of `PLACES`, as with layers
    Returns:
        one row per question, reading, layer and place: sample_id, through, layer (the last is what leaves the last
        layer), place ("object", "elsewhere", "answer": the position that predicts it), share (of the place's tokens),
        is_output (whether layer is what leaves the last one)

    Raises:
        VlmtraceError: a column is missing, a mask cannot be read, there is no such layer or place, or the model is not
            decoder-only
    """
    check_questions(questions, "answer", "object_mask")
    for place in places:
        one_of(place, PLACES, "place")
    through, places = list(dict.fromkeys(through)), list(dict.fromkeys(places))
    tables = []
    with counter(len(questions), f"words in {len(questions)} images") as advance:
        for row in questions.to_dict("records"):
            lens = lens_of(model, row, prefix)
            boxes = image_boxes(lens, row["image"])
            on_object = tokens_on_object(row, boxes.drop(columns="position").to_numpy())
            positions = boxes["position"].to_numpy()
            of = {"object": positions[on_object], "elsewhere": positions[~on_object], "answer": np.array([lens.at])}
            asked = list(dict.fromkeys(range(len(lens.hidden)) if layers is None else layers))
            at, words = np.concatenate([of[place] for place in places]), word_tokens(lens, row["answer"])
            for way in through:
                reached = word_ranks(lens, words, through=way, layers=asked, positions=list(at)) <= at_most
                ends = np.cumsum([len(of[place]) for place in places])[:-1]
                for place, mine in zip(places, np.split(reached, ends, axis=1), strict=True):
                    share = mine.mean(1) if mine.shape[1] else np.full(len(asked), np.nan)
                    table = pd.DataFrame({"layer": asked, "place": place, "share": share})
                    is_output = table["layer"] == len(lens.heads)
                    tables.append(table.assign(sample_id=row["sample_id"], through=way, is_output=is_output))
            advance(1)
    return pd.concat(tables, ignore_index=True)[["sample_id", "through", "layer", "place", "share", "is_output"]]


def word_tokens(lens: Lens, text: str) -> list[int]:
    """The tokens that are a word: with or without a space before it, in capitals or without.

    Args:
        lens: whose model's tokenizer
        text: the word
    Returns:
        ids, each once; of a word that is several tokens in each of these forms, those that it begins with
    Raises:
        VlmtraceError: the tokenizer does not know the word
    """
    tokenizer = lens.model.tokenizer
    found: list[int] = []
    beginnings: list[int] = []
    for form in (text, f" {text}", text.capitalize(), f" {text.capitalize()}"):
        ids = tokenizer(form, add_special_tokens=False).input_ids
        # A mark that stands for the space alone is no beginning of a word.
        ids = [token for token in ids if tokenizer.decode([token]).strip()]
        if ids and ids[0] != tokenizer.unk_token_id:
            # One letter of "pink" begins many other words.
            (found if len(ids) == 1 else beginnings).append(ids[0])
    found = found or beginnings
    if not found:
        raise VlmtraceError(f"The word {text!r} is unknown to the tokenizer of {lens.model.name}: use another word.")
    return list(dict.fromkeys(found))


@checked
def image_boxes(lens: Lens, image: Image.Image | str | Path) -> pd.DataFrame:
    """Where in the image its tokens lie.

    Args:
        lens: one run
        image: the image of its inputs
    Returns:
        one row per image token that has a place: position (in the sequence), top, left, bottom, right (fractions of
        the image)
    """
    boxes = pd.DataFrame(lens.model.image_cells(image, lens.inputs, BLOCK), columns=["top", "left", "bottom", "right"])
    boxes.insert(0, "position", np.flatnonzero(lens.image_positions))
    return boxes.dropna(ignore_index=True)
