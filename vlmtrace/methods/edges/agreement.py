"""How well estimates rank edges, against their exact effects."""

from __future__ import annotations

import pandas as pd
from scipy.stats import spearmanr

from vlmtrace.core.arguments import Count, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_table
from vlmtrace.core.stored import StoredTable, choose, values_of
from vlmtrace.methods.attribution.gradients import check_comparable, mean_head_effects

#: What tells edges apart.
EDGE = ("sender", "receiver")

COLUMNS = ["sample_id", "corruption", *EDGE, "patching_effect"]


@checked
def edge_agreement(
    exact: pd.DataFrame | StoredTable, estimate: pd.DataFrame | StoredTable, top: Count = 100
) -> pd.DataFrame:
    """Say how well an estimate ranks edges, against exact path patching of the same pairs.

    The effect of an edge is its patching effect (summed over positions, where they were patched one by one), averaged
    over pairs. Most edges of a model do next to nothing, so that a rank correlation over all of them speaks of these;
    the overlap speaks of the strongest.

    Args:
        exact: from `patch_edges`, or from `attribute_nodes` with method "exact"
        estimate: from `attribute_edges`, or from `attribute_nodes`, of the same pairs
        top: how many of the strongest edges (by magnitude) are compared

    Returns:
        one row per corruption: corruption, n_pairs, n_edges (of those in both tables), the correlations pearson and
        spearman of the signed effects and spearman_magnitude of their absolute values (−1 to 1), top, overlap: the
        share of the exact top edges that are among the estimated ones, and overlap_by_chance: the share expected of a
        random ranking

    Raises:
        VlmtraceError: a column is missing, no edge or pair is in both tables, a table holds several directions or
            methods, the two are not of one direction, or there are no more than `top` edges

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=2)
        >>> decoder = {"senders": ["text_decoder"], "receivers": ["text_decoder", "output"]}
        >>> exact = vt.patch_edges(model, pairs, **decoder)
        >>> estimate = vt.attribute_edges(model, pairs, **decoder)
        >>> found = vt.edge_agreement(exact, estimate, top=20).iloc[0]
        >>> int(found["n_edges"]), bool(found["overlap"] > 0.8)
        (3754, True)
    """
    rows = []
    for corruption, means in mean_edge_effects(exact, estimate).items():
        if len(means) <= top:
            raise VlmtraceError(f"top={top} of {len(means)} edges says nothing: choose fewer.")
        exactly, estimated = means["exact"], means["estimate"]
        rows.append(
            {
                "corruption": corruption,
                "n_pairs": means.attrs["n_pairs"],
                "n_edges": len(means),
                "pearson": exactly.corr(estimated),
                "spearman": spearmanr(exactly, estimated).statistic,
                "spearman_magnitude": spearmanr(exactly.abs(), estimated.abs()).statistic,
                "top": top,
                "overlap": overlap(means, top),
                "overlap_by_chance": top / len(means),
            }
        )
    return pd.DataFrame(rows)


def mean_edge_effects(
    exact: pd.DataFrame | StoredTable, estimate: pd.DataFrame | StoredTable
) -> dict[str, pd.DataFrame]:
    """Exact and estimated mean effects of the edges that both tables have.

    Args:
        exact: an edge_patching table
        estimate: another one of the same pairs

    Returns:
        by corruption, the columns exact and estimate, indexed by sender and receiver; `attrs` says n_pairs

    Raises:
        VlmtraceError: a column is missing, no edge or pair is in both tables, a table holds several directions or
            methods, or the two are not of one direction
    """
    tables = {
        name: check_table(table, COLUMNS, "edge_patching") for name, table in (("exact", exact), ("estimate", estimate))
    }
    found = {}
    for corruption in values_of(tables["exact"], "corruption"):
        if corruption not in values_of(tables["estimate"], "corruption"):
            continue
        both = {name: choose(table, corruption=corruption) for name, table in tables.items()}
        check_comparable(both, ["direction", "method"])
        pairs = [set(values_of(table, "sample_id")) for table in both.values()]
        if pairs[0] != pairs[1]:
            raise VlmtraceError(
                f"Exact and estimated effects under {corruption} corruption are not of the same pairs "
                f"({len(pairs[0] ^ pairs[1])} are in one table only): estimate those that were patched."
            )
        means = pd.concat({name: mean_head_effects(table, EDGE) for name, table in both.items()}, axis=1).dropna()
        if len(means):
            means.attrs["n_pairs"] = len(pairs[0])
            found[corruption] = means
    if not found:
        raise VlmtraceError("No edge is in both tables under one corruption: estimate the edges that were patched.")
    return found


def overlap(means: pd.DataFrame, top: int) -> float:
    """The share of the strongest edges by one column that are also the strongest by the other.

    Args:
        means: with the columns exact and estimate
        top: how many are the strongest
    """
    strongest = [set(means[name].abs().nlargest(top).index) for name in ("exact", "estimate")]
    return len(strongest[0] & strongest[1]) / top
