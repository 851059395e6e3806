"""At how many positions a model's patches are affordable: at all of them, or at those of the text alone.

In a decoder-only model the image tokens come first, and a patch at one of them has all later positions run again: they
are most of the positions, and their patches cost several times as much as those of words. Where they are too many, the
notebooks patch every position of the text exactly, and estimate single image tokens by gradients that some exact
patches check (`vlmtrace.methods.attribution.spot_check`). What else is done with image tokens is each notebook's own:
notebook 04 patches modules there by region (`patch_regions`), notebook 05 heads by region and at all positions.
"""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import NotForThisModel, VlmtraceError, one_of
from vlmtrace.methods.patching.costs import BLOCK, ModelSizes, model_sizes, patching_costs
from vlmtrace.models import VLM

#: What can be asked for.
EXTENTS = ("auto", "all", "text")

#: Operations that all patches of all heads of one pair may take: about two minutes at 10¹¹ a second, which a processor
#: of a few cores reaches, or at 10¹⁴, which a GPU does.
AFFORDABLE = {"cpu": 1.2e13, "cuda": 1.2e16}

#: Operations that a map which somebody waits for may take, by kind of device: ten seconds at the same rates.
WAITED_FOR = {"cpu": 1e12, "cuda": 1e15}


def can_wait(
    model: VLM, sizes: ModelSizes | None, block: str, patches_per_layer: int, rerun: int, whole: bool = False
) -> bool:
    """Whether patches are computed while somebody waits.

    Args:
        model: the model to patch
        sizes: its sizes; None: nobody knows what its patches cost
        block: that is patched
        patches_per_layer: how many in each layer
        rerun: positions of the language model that each has run again; those of another block have all run again
        whole: each patch sets all of these positions, and not one

    Returns:
        True: they are, or their cost is not known
    """
    if sizes is None:
        return True
    if block == BLOCK:
        operations = sizes.patches_operations(patches_per_layer, rerun, whole)
    else:
        # A patch of the vision encoder changes what the language model reads at every image token.
        operations = model.blocks[block].n_layers * patches_per_layer * sizes.pass_operations
    return operations <= WAITED_FOR.get(model.device.type, WAITED_FOR["cpu"])


class Extent(NamedTuple):
    """Where patches are made.

    Attributes:
        positions: "all" or "text", as `patch_modules` and `patch_heads` take it
        reason: a sentence that says so, and why
    """

    positions: str
    reason: str

    @property
    def is_all(self) -> bool:
        """Whether single image tokens are patched, too."""
        return self.positions == "all"


@checked
def affordable_extent(model: VLM, pairs: pd.DataFrame, positions: str = "auto") -> Extent:
    """Choose the positions at which every head and module of a model is patched.

    Args:
        model: the model to patch
        pairs: a pairs table; the first row says how long a prompt is
        positions: "all", "text", or "auto": all positions where the operations of all patches of heads of one pair,
            as `patching_costs` counts them, are no more than `AFFORDABLE` allows on the model's device, and wherever
            they are not counted (models that are not decoder-only keep the image in another sequence)

    Returns:
        the positions and a sentence that gives the reason

    Raises:
        VlmtraceError: positions is something else, or the table has no row

    Example:
        >>> import vlmtrace as vt
        >>> from vlmtrace.methods.patching import affordable_extent
        >>> model, pairs = vt.load_model("tiny-llava"), vt.load_pairs("rendered_states", n=1)
        >>> affordable_extent(model, pairs).positions
        'all'
        >>> affordable_extent(model, pairs, "text").reason
        'Patches are made at every position of the text, as asked.'
    """
    one_of(positions, EXTENTS, "choice of positions")
    if pairs.empty:
        raise VlmtraceError("There is no pair whose positions could be counted: pass a table with rows.")
    if positions == "text":
        return Extent("text", "Patches are made at every position of the text, as asked.")
    if positions == "all":
        return Extent("all", "Patches are made at every position, as asked.")
    try:
        costs = patching_costs(model_sizes(model, pairs)).set_index("call")["operations"]
    except NotForThisModel:
        return Extent("all", "Patches are made at every position.")
    needed, affordable = costs["patch_heads"], AFFORDABLE.get(model.device.type, AFFORDABLE["cpu"])
    counted = f"{needed / 1e12:,.0f} · 10¹²" if needed >= 1e12 else "less than 10¹²"
    told = f"all patches of heads of one pair take {counted} operations"
    if needed <= affordable:
        return Extent("all", f"Patches are made at every position: {told}.")
    return Extent("text", f"Patches are made at every position of the text only: at all positions, {told}.")
