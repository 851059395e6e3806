"""Claims about image tokens: Neo et al. 2025, https://arxiv.org/abs/2410.07149."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from vlmtrace.benchmarks.claims.material import Material, Number, half, number, units_of
from vlmtrace.core.images import open_image
from vlmtrace.methods.knockout import knock_out_attention, replace_image_tokens
from vlmtrace.methods.lens import word_layers

#: A word counts as read where it is among the first so many.
FIRST = 5
#: Squares along each side of a picture that is shuffled: as many as the bundled models' patches.
N_SQUARES = 8
#: What reaches the answer from where; the end is the last position, or in a question encoder any.
EDGES = {
    "measured": ("object", "end"),
    "from the background": ("background", "end"),
    "from the object to the options": ("object", "options"),
    "from the background to the options": ("background", "options"),
    "from the options": ("options", "end"),
    "from the question's words": ("question", "end"),
    "from all other words": ("text", "end"),
}


def _noun(questions: pd.DataFrame) -> pd.Series:
    """The word for the object that each question asks about."""
    return questions["prompt"].str.extract(r"(\w+)\?$")[0]


def _blank(path: str | Path) -> Image.Image:
    """A picture of the mean color of another, as large."""
    picture = open_image(path).convert("RGB")
    color = tuple(int(value) for value in np.asarray(picture).reshape(-1, 3).mean(0).round())
    return Image.new("RGB", picture.size, color)


def _shuffled(path: str | Path, seed: int) -> Image.Image:
    """A picture whose squares, an eighth of it wide and high, are in another order."""
    picture = np.asarray(open_image(path).convert("RGB"))
    rows, columns = (np.linspace(0, side, N_SQUARES + 1).round().astype(int) for side in picture.shape[:2])
    height, width = np.diff(rows).min(), np.diff(columns).min()
    new = picture.copy()
    order = np.random.default_rng(seed).permutation(N_SQUARES**2)
    for i, j in enumerate(order):
        (top, left), (from_top, from_left) = ((rows[k // N_SQUARES], columns[k % N_SQUARES]) for k in (i, j))
        square = picture[from_top : from_top + height, from_left : from_left + width]
        new[top : top + height, left : left + width] = square
    return Image.fromarray(new)


def _words(material: Material, word: str) -> list[Number]:
    """Share of the object's tokens that have the word among the first, at the layer where most have it.

    The layer is chosen on every other question, and measured on the others.
    """
    questions = material.answered[0]
    if len(questions) < 2:
        return [Number("measured", np.nan, np.nan, np.nan, len(questions), "too few questions answered")]
    questions = questions.assign(answer=_noun(questions) if word == "noun" else questions["answer"])
    # Another question's image, in which the word names nothing.
    order = np.arange(len(questions))
    images = list(questions["image"])
    kind = questions["answer"].to_numpy()
    others = [next((j for j in np.roll(order, -i - 1) if kind[j] != kind[i]), i) for i in order]
    runs = {
        "measured": questions,
        "another image": questions.assign(image=[images[j] for j in others]),
        "shuffled image": questions.assign(image=[_shuffled(path, i) for i, path in enumerate(images)]),
        "blank image": questions.assign(image=[_blank(path) for path in images]),
    }
    chosen = _read(material, questions.iloc[::2], None)["object"]
    # What leaves the last layer is no state that others read.
    layer = int(chosen[chosen["layer"] < material.model.head_block.n_layers].groupby("layer")["share"].mean().idxmax())
    found: list[Number] = []
    for what, table in runs.items():
        share = {place: one["share"] for place, one in _read(material, table.iloc[1::2], layer).items()}
        found.append(number(what, share["object"], note=f"input of layer {layer}", share=True))
        if what == "measured":
            found.append(number("tokens elsewhere", share["elsewhere"], share=True))
    return found


def _read(material: Material, questions: pd.DataFrame, layer: int | None) -> dict[str, pd.DataFrame]:
    """`word_layers` by place: of the object's tokens at all layers, or of these and all others at one.

    No other word is read: with a large vocabulary, that takes most of the time.
    """
    places = ["object"] if layer is None else ["object", "elsewhere"]
    table = word_layers(
        material.model,
        questions.reset_index(drop=True),
        at_most=FIRST,
        through=["unembedding"],
        layers=None if layer is None else [layer],
        places=places,
    )
    return {place: table[table["place"] == place] for place in places}


def color_words(material: Material) -> list[Number]:
    """Share of the object's tokens from which its color can be read by the logit lens.

    Args:
        material: of a decoder-only model
    """
    return _words(material, "color")


def object_words(material: Material) -> list[Number]:
    """Share of the object's tokens from which its name can be read by the logit lens.

    Args:
        material: of a decoder-only model
    """
    return _words(material, "noun")


def _turned(material: Material, region: str) -> list[Number]:
    """Share of the answers that turn where a region's tokens say nothing of the image, and where as many others do."""
    pairs = material.states
    names = {"measured": region, "as many others": f"as many as {region}"}
    table = replace_image_tokens(material.model, pairs, regions=list(names.values()), seed=material.seed)
    clean = pairs.set_index("sample_id")["clean_logit_diff"].astype(float)
    found = []
    for what, name in names.items():
        mine = table[table["token_role"] == name]
        turned = clean.loc[mine["sample_id"]].to_numpy() + mine["logit_diff"].to_numpy() < 0
        size = mine["token"].str.split().str[0].astype(int).mean()
        found.append(number(what, turned, units_of(mine), note=f"{size:.0f} tokens", share=True))
    return found


def object_replaced(material: Material) -> list[Number]:
    """Share of the answers that turn without the object's tokens.

    Args:
        material: of any model
    """
    return _turned(material, "object")


def surroundings_replaced(material: Material) -> list[Number]:
    """Share of the answers that turn without the object's tokens and those beside them.

    Args:
        material: of any model
    """
    return _turned(material, "object with margin")


def fetched(material: Material) -> list[Number]:
    """Share of the gap lost where the options, or the last position, cannot attend to the object in a window of layers.

    For each edge, the window that costs most is chosen on the discover pairs and measured on the verify pairs.

    Args:
        material: of any model
    """
    model = material.model
    end = "last" if ("options", "last") in model.edges else "all"
    edges = {what: (source, end if target == "end" else target) for what, (source, target) in EDGES.items()}
    discover, verify = (
        knock_out_attention(model, half(material.states, use), edges=list(edges.values()))
        for use in ("discover", "verify")
    )
    found = []
    for what, edge in edges.items():
        name = " → ".join(edge)
        of = [table[table["token_role"] == name] for table in (discover, verify)]
        layer = of[0].groupby("layer")["patching_effect"].mean().idxmin()
        mine = of[1][of[1]["layer"] == layer]
        window = mine["token"].iloc[0].replace("1 layers", "1 layer")
        found.append(number(what, mine["patching_effect"], units_of(mine), note=f"{name}, {window} around {layer}"))
    return found
