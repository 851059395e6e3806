"""What a run may have found: of each kind of intervention the strongest case, picked on some pairs, measured on others.

Four kinds are compared: the important heads together, one module at one place, a region of the image at the end of the
vision encoder, and a knock-out. Sites are picked by their mean effect on the discover pairs, and measured on the verify
pairs. What has to carry everything by construction is no candidate: the residual stream, all image patches, the patches
that differ between both images, and the blocks behind the one that reads the question. What has to carry nothing is
none either: the last layer of a language model that reads image tokens itself, behind which nothing reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from vlmtrace.core import stats
from vlmtrace.core.schema import CELL, HEAD, UNIT
from vlmtrace.methods.circuits.heads import MIN_EFFECT
from vlmtrace.methods.knockout.windows import layers_of_window

#: Regions of the image that are candidates: what changed, and the whole image, hold all that differs by construction.
REGIONS = ("object", "distractor", "background")

#: Modules that are candidates: what a layer adds to the residual stream.
ADDED = ("cross_attention", "self_attention", "mlp")

#: The block after whose last layer a region of the image is a candidate.
VISION = "vision_encoder"

#: Fewer units say too little about others.
MIN_UNITS = 5


@dataclass(eq=False)
class Candidate:
    """A case that may be a finding.

    Attributes:
        kind: "heads", "module", "region" or "knockout"
        task: its name
        corruption: "image" or "text"
        place: what was patched: block, module, layer, token_role; for heads their list, for cut attention layers (all
            that were cut)
        effects: on the verify pairs: sample_id, unit, effect (a share of the gap; of a knock-out what is lost)
        control: mean effect of as many random heads; missing for other kinds
    """

    kind: str
    task: str
    corruption: str
    place: dict[str, Any]
    effects: pd.DataFrame
    control: float = float("nan")

    @cached_property
    def measured(self) -> dict[str, Any]:
        """Mean over units, its 95 % interval, n (pairs) and n_units; the interval is missing for too few units."""
        values = stats.unit_means(self.effects["effect"].to_numpy(), self.effects[UNIT].to_numpy())
        (low,), (high,) = stats.mean_interval(values)
        if len(values) < MIN_UNITS:
            low = high = float("nan")
        return {
            "mean": float(values.mean()),
            "low": float(low),
            "high": float(high),
            "n": self.effects["sample_id"].nunique(),
            "n_units": len(values),
        }

    @property
    def strength(self) -> float:
        """How far above 0 the effect is at least: the lower end of its interval, 0 where that is below 0 or missing."""
        low = self.measured["low"]
        return low if low > 0 else 0.0

    @property
    def counts(self) -> bool:
        """Whether it may be told as a finding: surely above 0, and no smaller than the effect of an important head."""
        return self.strength > 0 and self.measured["mean"] >= MIN_EFFECT


def head_candidates(heads: pd.DataFrame, curves: pd.DataFrame) -> Iterator[Candidate]:
    """The important heads that help the answer, set to their clean outputs together.

    Args:
        heads: the heads table
        curves: the faithfulness table; its frozen run, of verify pairs, is read

    Yields:
        one candidate per task and corruption that has such heads
    """
    if heads.empty or curves.empty:
        return
    frozen = curves[(curves["run"] == "frozen") & (curves["direction"] == "sufficiency")]
    for (task, corruption), cell in heads.groupby(CELL, sort=False):
        chosen = cell[cell["is_important"].astype(bool) & (cell["mean_effect"] > 0)]
        chosen = chosen.sort_values("mean_effect", ascending=False)
        here = frozen[(frozen["task"] == task) & (frozen["corruption"] == corruption) & (frozen["k"] == len(chosen))]
        ranked = here[here["order"] == "ranked"]
        if len(chosen) and len(ranked) and "patching_effect" in ranked:
            place = {"heads": chosen[HEAD].to_dict("records"), "block": chosen["block"].iloc[0]}
            random = here.loc[here["order"] == "random", "patching_effect"].mean()
            yield Candidate("heads", task, corruption, place, _effects(ranked), random)


def module_candidates(effects: pd.DataFrame, use: pd.Series, task: str) -> Iterator[Candidate]:
    """What one layer of the block that reads the question adds at one kind of token.

    Args:
        effects: the module_patching table of a task
        use: by sample_id, "discover" or "verify"
        task: its name

    Yields:
        one candidate per corruption and module that has a positive mean effect on the discover pairs
    """
    if effects.empty:
        return
    at_option = (effects["module"] == "self_attention") & (effects["token_role"] == "correct")
    blocks = effects.loc[at_option, "block"].unique()
    inside = effects[effects["block"].isin(blocks) & effects["module"].isin(ADDED)]
    if len(blocks) == 1:
        yield from _picked("module", inside, use, task)


def region_candidates(regions: pd.DataFrame, use: pd.Series, task: str) -> Iterator[Candidate]:
    """A region of the image, all of its patches at once, as the last layer of the vision encoder leaves them.

    Args:
        regions: the regions table of a task
        use: by sample_id, "discover" or "verify"
        task: its name

    Yields:
        one candidate per corruption, if a region has a positive mean effect on the discover pairs; none where regions
        were patched in another block: nothing reads image tokens behind the last layer of a decoder-only model
    """
    known = after_vision(regions)
    if len(known):
        yield from _picked("region", known[known["token_role"].isin(REGIONS)], use, task)


def after_vision(regions: pd.DataFrame) -> pd.DataFrame:
    """Give the rows of the residual stream after the last layer of the vision encoder; the blocks behind it read that.

    Args:
        regions: a regions table, which may be empty

    Returns:
        the rows; none where regions were patched in another block
    """
    if regions.empty:
        return regions
    seen = regions[(regions["block"] == VISION) & (regions["module"] == "residual")]
    return seen[seen["layer"] == seen["layer"].max()]


def knockout_candidates(knockouts: pd.DataFrame, use: pd.Series, task: str) -> Iterator[Candidate]:
    """What the clean run loses where attention is cut or a region of the image is replaced by its mean.

    Args:
        knockouts: the knockouts table of a task
        use: by sample_id, "discover" or "verify"
        task: its name

    Yields:
        one candidate per corruption and module that loses something on the discover pairs
    """
    if knockouts.empty:
        return
    cut = knockouts["token_role"].str.contains("→")
    lost = knockouts[cut | knockouts["token_role"].isin(REGIONS)]
    lost = lost.assign(patching_effect=-lost["patching_effect"])
    for one in _picked("knockout", lost, use, task):
        if "→" in str(one.place["token_role"]):
            one.place["layers"] = layers_of_window(knockouts[cut], one.place)
        yield one


def strongest_first(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Sort candidates by how far from 0 their effects are at least.

    Args:
        candidates: of any kind

    Returns:
        the strongest first; those whose interval holds 0, or that have none, come last
    """
    return sorted(candidates, key=lambda one: -one.strength)


def _picked(kind: str, effects: pd.DataFrame, use: pd.Series, task: str) -> Iterator[Candidate]:
    """By corruption and module, the site with the largest mean on the discover pairs; it must be above 0."""
    site = ["corruption", "block", "module", "layer", "token_role"]
    keys = [*site, "sample_id", *([UNIT] if UNIT in effects else [])]
    by_pair = effects.dropna(subset="patching_effect").groupby(keys, sort=False, observed=True)["patching_effect"]
    table = by_pair.mean().reset_index()
    uses = table["sample_id"].map(use)
    means = table[uses == "discover"].groupby(site, sort=False)["patching_effect"].mean().reset_index()
    verify = table[uses == "verify"]
    if means.empty or verify.empty:
        return
    best = means.loc[means.groupby(["corruption", "module"], sort=False)["patching_effect"].idxmax()]
    for row in best[best["patching_effect"] > 0][site].to_dict("records"):
        mine = verify[(verify[list(row)] == pd.Series(row)).all(axis=1)]
        if len(mine):
            yield Candidate(kind, task, str(row.pop("corruption")), row, _effects(mine))


def _effects(rows: pd.DataFrame) -> pd.DataFrame:
    found = rows.rename(columns={"patching_effect": "effect"}).dropna(subset="effect")
    if UNIT not in found:
        found = found.assign(**{UNIT: found["sample_id"]})
    return found[["sample_id", UNIT, "effect"]].reset_index(drop=True)
