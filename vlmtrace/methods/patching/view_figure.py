"""The view Patch as a printed figure, and as a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vlmtrace.display.panels import effect_panel, head_panel
from vlmtrace.display.style import effect_limit, new_figure, paper_style, signed_colorbar
from vlmtrace.inputs.token_roles import shows_image
from vlmtrace.methods.patching.intervention import Outcome, Patch


@paper_style
def draw_patching(
    effects: pd.DataFrame, heads: pd.DataFrame | None, outcome: Outcome, patched: str, title: str
) -> Figure:
    """The maps that are shown, and the three distributions of the answer.

    Args:
        effects: of whole modules: layer, position, token, token_role, patching_effect, is_estimate
        heads: layer, head, patching_effect, is_estimate; None: the module has none
        outcome: of all patches together
        patched: what is patched
        title: of the figure
    """
    text = ~shows_image(effects["token_role"])
    # Of a vision encoder, the image patches are shown: it has one other position at most.
    effects = effects[text] if effects.loc[text, "position"].nunique() > 1 else effects
    matrix = effects.pivot(index="layer", columns="position", values="patching_effect")
    tokens = effects.drop_duplicates("position")["token"].tolist()
    figure = new_figure(height=3.4)
    axes = figure.subplots(1, 2 if heads is None else 3)
    shown = (
        [matrix] if heads is None else [matrix, heads.pivot(index="layer", columns="head", values="patching_effect")]
    )
    limit = effect_limit(np.concatenate([part.to_numpy().ravel() for part in shown]))
    effect_panel(axes[0], matrix, tokens if len(tokens) <= 24 else [""] * len(tokens), limit)
    if heads is not None:
        head_panel(axes[1], shown[1], limit)
    values = [value for part in shown for value in part.to_numpy().ravel()]
    what = {"image tokens": effects, "heads": heads}
    guessed = [name for name, part in what.items() if part is not None and part["is_estimate"].any()]
    over = "this pair alone (n = 1)" + (f", {' and '.join(guessed)} estimated from a gradient" if guessed else "")
    signed_colorbar(figure, list(axes[:-1]), limit, values, over)
    table = outcome.table(5).iloc[::-1]
    places = np.arange(len(table))
    for shift, run in zip((0.27, 0, -0.27), outcome.logits, strict=True):
        axes[-1].barh(places + shift, table[run], height=0.25, label=run)
    axes[-1].set(yticks=places, yticklabels=table["token"], xlabel="probability", xlim=(0, 1))
    axes[-1].legend()
    axes[-1].set_title(patched[:80] or "nothing patched")
    figure.suptitle(title)
    return figure


def patching_table(
    effects: pd.DataFrame,
    heads: pd.DataFrame | None,
    place: tuple[str, str],
    positions: Sequence[int],
    patches: Sequence[Patch],
    outcome: Outcome | None,
) -> pd.DataFrame:
    """The numbers of the maps, and in the last row the intervention's.

    Args:
        effects: as in `draw_patching`
        heads: the same
        place: (block, module) of both
        positions: where heads are patched; none: everywhere
        patches: the intervention
        outcome: of it, which is computed exactly; None: there is none

    Returns:
        one row per site: block, module, layer, head, position, token, token_role, patching_effect, is_estimate
    """
    parts = [effects]
    if heads is not None:
        parts.append(heads.assign(token=", ".join(map(str, positions)) or "all positions"))
    table = pd.concat(parts, ignore_index=True).assign(block=place[0], module=place[1])
    if outcome is not None:
        text = "; ".join(map(str, patches))
        total = {"token": text, "patching_effect": outcome.patching_effect, "is_estimate": False}
        table = pd.concat([table, pd.DataFrame([total])], ignore_index=True)
    columns = "block module layer head position token token_role patching_effect is_estimate".split()
    kinds = {name: "Int64" for name in ("layer", "head", "position")} | {"is_estimate": "boolean"}
    return table.reindex(columns=columns).astype(kinds)
