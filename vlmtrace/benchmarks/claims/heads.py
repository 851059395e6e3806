"""Claims about heads that write the answer: Yu and Ananiadou 2024, https://arxiv.org/abs/2411.10950."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vlmtrace.benchmarks.claims.material import Material, Number, contributions_of, number
from vlmtrace.methods.lens import (
    ablate_heads,
    ablation_table,
    agreement,
    right_answers,
    score_maps,
    shared_heads,
)

#: Share of all heads that count as few, and of the layers that count as deep.
FEW, DEEP = 0.05, 1 / 3


def _by_head(contributions: pd.DataFrame, column: str) -> pd.DataFrame:
    """(question, head) contributions."""
    heads = contributions[contributions["head"].notna()]
    return heads.pivot(index="sample_id", columns=["layer", "head"], values=column)


def few_heads(material: Material) -> list[Number]:
    """Share of all that heads add to the answer's log-probability which the strongest 5 % of them add.

    The heads are chosen on every other question, and measured on the others.

    Args:
        material: of a decoder-only model
    """
    _, contributions = material.answered
    wide = _by_head(contributions, "log_p_increase").clip(lower=0)
    k = max(1, round(FEW * wide.shape[1]))
    chosen = wide.iloc[::2].mean().nlargest(k).index
    share = (wide[chosen].sum(axis=1) / wide.sum(axis=1)).iloc[1::2]
    names = ", ".join(f"{layer}.{head:.0f}" for layer, head in chosen[:3])
    return [
        number("measured", share, share=True, note=f"{k} of {wide.shape[1]} heads; the first: {names}"),
        Number("share of the heads", k / wide.shape[1], np.nan, np.nan, len(share)),
    ]


def deep_heads(material: Material) -> list[Number]:
    """Share of all that heads add which those of the last third of the layers add, by two norms.

    Args:
        material: of a decoder-only model
    """
    _, contributions = material.answered
    n_layers = material.model.head_block.n_layers
    first = n_layers - round(DEEP * n_layers)
    found = []
    for what, column in {"measured": "log_p_increase", "norm computed anew": "log_p_increase_renormed"}.items():
        wide = _by_head(contributions, column).clip(lower=0)
        deep = wide.columns.get_level_values("layer") >= first
        found.append(
            number(what, wide.loc[:, deep].sum(axis=1) / wide.sum(axis=1), note=f"layers {first} and after", share=True)
        )
    return [*found, Number("share of the layers", (n_layers - first) / n_layers, np.nan, np.nan, len(wide))]


def _textual(material: Material) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Questions answered from images and from sentences alike, and both kinds' contributions."""
    asked, visual = material.answered
    if asked.empty:
        return asked, visual, contributions_of(material.model, asked)
    both = asked[right_answers(material.model, asked, text_only="sentences")].reset_index(drop=True)
    textual = contributions_of(material.model, both, text_only="sentences")
    return both, visual[visual["sample_id"].isin(both["sample_id"])], textual


def visual_and_textual(material: Material) -> list[Number]:
    """Rank correlation of heads' contributions to answers from images and to answers from sentences.

    Args:
        material: of a decoder-only model
    """
    both, visual, textual = _textual(material)
    if len(both) < 4:
        return [Number("measured", np.nan, np.nan, np.nan, len(both), "too few questions answered from sentences")]
    row = agreement(visual, textual, seed=material.seed).iloc[0]
    return [
        Number("measured", row["spearman"], row["low"], row["high"], len(both)),
        Number("as reliable as can be", row["ceiling"], np.nan, np.nan, len(both)),
    ]


def shared_heads_removed(material: Material) -> list[Number]:
    """Change of the answer's log-odds where the heads that both kinds of question share are mean-ablated.

    Heads are chosen on half of the questions, and ablated in the others.

    Args:
        material: of a decoder-only model
    """
    both, visual, textual = _textual(material)
    first, second = both.iloc[::2]["sample_id"], both.iloc[1::2].reset_index(drop=True)
    if len(second) < 2:
        return [Number("measured", np.nan, np.nan, np.nan, len(second), "too few questions answered from sentences")]
    block = material.model.head_block
    k = max(5, round(FEW * block.n_layers * block.n_heads))
    of_first = [table[table["sample_id"].isin(first)] for table in (visual, textual)]
    chosen = shared_heads(of_first[0], of_first[1], k=k)
    if not chosen:
        return [Number("measured", np.nan, np.nan, np.nan, len(second), f"none of the {k} strongest is shared")]
    table = ablation_table(ablate_heads(material.model, second, chosen, seed=material.seed))
    table = table[table["run"] == "visual"].set_index("heads")
    names = {"chosen": "measured", "random": "as many random heads"}
    return [
        Number(what, row["log_odds_change"], row["low"], row["high"], int(row["n"]), f"{len(chosen)} heads")
        for what, row in ((what, table.loc[heads]) for heads, what in names.items())
    ]


def important_patches(material: Material) -> list[Number]:
    """How well the map of patches that raise the answer's log-probability points at the object.

    Args:
        material: of a decoder-only model
    """
    scores, _ = score_maps(
        material.model, material.answered[0], methods=["lens", "random"], steps=1, seed=material.seed
    )
    of = scores.groupby("method")["auc"]
    return [
        number("measured", of.get_group("lens"), share=True),
        number("random map", of.get_group("random"), share=True),
    ]
