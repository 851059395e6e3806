"""What the clean run needs, in sentences that follow the tables."""

from __future__ import annotations

import pandas as pd

from vlmtrace.core.arguments import checked
from vlmtrace.core.schema import check_columns
from vlmtrace.display.numbers import count
from vlmtrace.display.sentences import mean_in_words, mean_of, picked_in_words
from vlmtrace.display.wording import readable
from vlmtrace.methods.knockout.windows import layers_in_words, layers_of_window

_COLUMNS = ("sample_id", "block", "module", "layer", "token_role", "patching_effect")


@checked
def describe_knockouts(cut: pd.DataFrame, replaced: pd.DataFrame | None = None) -> str:
    """Say in which layer, or window of layers, cutting attention costs most, and what replacing image tokens costs.

    Args:
        cut: from `knock_out_attention`
        replaced: from `replace_image_tokens`; None: attention only

    Returns:
        sentences, one a line; what is lost is a share of the gap between clean and corrupt run, a mean over units, with
        its 95 % interval where no layer was picked

    Raises:
        VlmtraceError: a column is missing
    """
    said = []
    for kind, table in (("cut", cut), ("replaced", replaced)):
        if table is None:
            continue
        check_columns(table, _COLUMNS, kind)
        known = table.dropna(subset="patching_effect")
        lost = known.assign(lost=-known["patching_effect"])
        if lost.empty:
            said.append("No pair has a loss: its clean and corrupt runs do not differ.")
        elif kind == "cut":
            said.append(f"Attention cut, {count(lost['sample_id'].nunique(), 'pair')}, share of the gap that is lost:")
            said += [f"- {line}" for line in _cut_lines(lost)]
        else:
            said.append("Image tokens replaced by their mean, share of the gap that is lost:")
            groups = lost.groupby("token_role", sort=False, observed=True)
            said += [f"- {region}: {mean_in_words(rows, 'lost')}." for region, rows in groups]
    return "\n".join(said)


def _cut_lines(lost: pd.DataFrame) -> list[str]:
    lines = []
    for (block, module, edge), rows in lost.groupby(["block", "module", "token_role"], sort=False, observed=True):
        by_layer = rows.groupby("layer", observed=True)["lost"].mean()
        layer = by_layer.idxmax()
        where = f"{edge} ({readable(module)} of the {readable(block)})"
        if by_layer[layer] < 0.005:
            lines.append(f"{where}: nothing in any layer.")
        else:
            layers = layers_of_window(rows, {"block": block, "module": module, "layer": layer})
            most, *_ = mean_of(rows[rows["layer"] == layer], "lost")
            lines.append(f"{where}: most in {layers_in_words(layers, int(layer))}, {picked_in_words(most)}.")
    return lines
