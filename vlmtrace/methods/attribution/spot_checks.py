"""How far estimates by gradients are right where nobody can patch every site: some of them are patched exactly.

Half of the sites are those with the largest estimates, where an error would be told as a finding. The others are drawn
at random, so that effects which the estimate misses have a chance to be seen.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from vlmtrace.core.arguments import Count, Seed, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import check_columns, validate_pairs
from vlmtrace.display.numbers import count
from vlmtrace.inputs.batch_runs import PairRuns
from vlmtrace.inputs.batching import one_by_one
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.methods.patching.metrics import effect_table
from vlmtrace.methods.patching.run_sweep import default_memory, memory_for_states, sweep_patches
from vlmtrace.models import VLM, Patches

#: What names a row of the table; estimates of whole modules have no head.
_ROW = ["sample_id", "corruption", "block", "module", "layer", "head", "position", "token", "token_role"]

#: How a site was chosen.
STRONGEST, RANDOM = "strongest", "random"


@checked
def spot_check(
    model: VLM,
    pairs: pd.DataFrame,
    estimates: pd.DataFrame,
    corruption: str = "image",
    n: Count = 20,
    seed: Seed = 0,
    contrast: str = "answer",
) -> pd.DataFrame:
    """Patch some of the sites of an estimate exactly, for each pair.

    Args:
        model: the model that the estimates are of
        pairs: their pairs table
        estimates: from `attribute_modules` or `attribute_heads`, of these pairs
        corruption: "image" or "text", that of the estimates
        n: sites of each pair: half of them (rounded up) with the largest estimates in size, the others drawn from all
            that remain
        seed: of what is drawn
        contrast: as in `patch_modules`, that of the estimates

    Returns:
        one row per pair and site: sample_id, corruption, block, module, layer, head (missing for whole modules),
        position, token, token_role, chosen ("strongest" or "random"), estimate and exact, the patching effects

    Raises:
        VlmtraceError: a column is missing, or a pair has no estimate under this corruption

    Example:
        >>> import vlmtrace as vt
        >>> from vlmtrace.methods.attribution import spot_check
        >>> model, pairs = vt.load_model("tiny-llava"), vt.load_pairs("rendered_states", n=2)
        >>> estimates = vt.attribute_heads(model, pairs, positions=["image"])
        >>> checked = spot_check(model, pairs, estimates, n=4)
        >>> checked.groupby("chosen").size().to_dict()
        {'random': 4, 'strongest': 4}
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    check_columns(estimates, [*(name for name in _ROW if name != "head"), "patching_effect"], "estimates")
    pairs = validate_pairs(pairs).reset_index(drop=True)
    mine = estimates[estimates["corruption"] == corruption]
    by_pair = dict(list(mine.groupby("sample_id", sort=False, observed=True)))
    if missing := [sample for sample in pairs["sample_id"] if sample not in by_pair]:
        raise VlmtraceError(
            f"The estimates have no row of the pair {missing[0]!r} under {corruption} corruption: pass estimates of "
            "the same pairs."
        )
    tables: dict[int, pd.DataFrame] = {}
    with counter(len(pairs), f"exact checks of {count(len(pairs), 'pair')}, {corruption} corruption") as advance:
        for row, runs in one_by_one(model, pairs, corruption, contrast):
            chosen = _choose(by_pair[pairs["sample_id"].iloc[row]], n, np.random.default_rng([seed, row]))
            tables[row] = _patched(model, pairs.iloc[[row]], runs, corruption, chosen)
            advance(1)
    return pd.concat([tables[row] for row in sorted(tables)], ignore_index=True)


def _choose(estimates: pd.DataFrame, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """The rows to be checked, with how each was chosen, sorted as a sweep takes them."""
    order = estimates["patching_effect"].abs().fillna(0).to_numpy().argsort(kind="stable")[::-1]
    strongest, rest = order[: -(-n // 2)], order[-(-n // 2) :]
    drawn = rng.permutation(rest)[: n // 2]
    chosen = estimates.iloc[np.concatenate([strongest, drawn])]
    names = [STRONGEST] * len(strongest) + [RANDOM] * len(drawn)
    return chosen.assign(chosen=names).sort_values(["block", "layer"], kind="stable")


def _patched(model: VLM, pair: pd.DataFrame, runs: PairRuns, corruption: str, chosen: pd.DataFrame) -> pd.DataFrame:
    """The exact effects of one pair beside their estimates."""
    tables = []
    memory = memory_for_states(default_memory(model), runs)
    for block, rows in chosen.groupby("block", sort=False, observed=True):
        heads = [None if pd.isna(head) else int(head) for head in rows.get("head", [None] * len(rows))]
        positions = torch.as_tensor(rows["position"].to_list(), device=model.device)[None]  # (1, N)
        patches = Patches(str(block), list(rows["module"]), [int(i) for i in rows["layer"]], heads, positions)
        readout = sweep_patches(model, runs, patches, memory)
        logit_diff, p_correct = (value.cpu().numpy() for value in (readout.logit_diff, readout.p_correct))
        exact = effect_table(pair, runs, corruption, patches, rows, logit_diff, p_correct)
        estimate = rows["patching_effect"].to_numpy()
        tables.append(
            exact[_ROW].assign(
                chosen=list(rows["chosen"]), estimate=estimate, exact=exact["patching_effect"].to_numpy()
            )
        )
    return pd.concat(tables, ignore_index=True)
