"""Claims behind LVLM-Interpret (https://arxiv.org/abs/2404.03118): relevancy maps and causal graphs tell why."""

from __future__ import annotations

from vlmtrace.benchmarks.claims.material import Material, Number, number, units_of
from vlmtrace.methods.explanation import explain
from vlmtrace.methods.explanation.search import NoGraph
from vlmtrace.methods.relevancy import deletion_curve, relevancy
from vlmtrace.methods.relevancy.deletion import half_way

#: Pairs of a search for causal graphs, which takes seconds each.
FEW = 8


def relevancy_deletes(material: Material) -> list[Number]:
    """Share of the image's tokens that have to be replaced until half of the answer is gone, the most relevant first.

    It is that of the first point of the curve where half is gone, in the map's order as in random order.

    Args:
        material: of any model
    """
    shares: dict[str, list[float]] = {"measured": [], "random order": []}
    for pair in material.states.to_dict("records"):
        found = relevancy(material.model, pair["clean_image"], pair["clean_prompt"])
        options = (pair["correct_token_id"], pair["incorrect_token_id"])
        curve = deletion_curve(material.model, pair, found.image[0], options, seed=material.seed)
        n = curve["n_replaced"].iloc[-1]
        for what, column in {"measured": "logit_diff", "random order": "random_mean"}.items():
            at = half_way(curve, column)
            shares[what].append(1.0 if at is None else at[1] / n)  # half of it is left even without all of them
    return [number(what, values, units_of(material.states), share=True) for what, values in shares.items()]


def causal_graphs(material: Material) -> list[Number]:
    """Share of the answers for which the causal graphs of the last layer's heads lead to tokens that change them.

    Args:
        material: of any model
    """
    pairs = material.states.head(FEW)
    found: list[float] = []
    random: list[float] = []
    blind: list[float] = []
    for pair in pairs.to_dict("records"):
        try:
            explained = explain(material.model, pair["clean_image"], pair["clean_prompt"], seed=material.seed)
        except NoGraph:
            # What the controls would have found is not known: at least nothing.
            for shares in (found, random, blind):
                shares.append(0.0)
            continue
        is_found = explained.head is not None
        found.append(float(is_found))
        random.append(explained.random_share if is_found else 0.0)
        blind.append(explained.blind_chance if is_found else 0.0)
    units = units_of(pairs)
    without = len(found) - int(sum(found))
    note = f"at least: 0 where no graph was found ({without} answers)" if without else ""
    return [
        number("measured", found, units, share=True),
        number("as many other tokens", random, note=note, share=True),
        number("a search without graphs", blind, note=note, share=True),
    ]
