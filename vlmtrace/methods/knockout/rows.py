"""What a change of the clean run takes away, as rows of the module_patching table.

An effect that takes the answer away is negative: logit_diff = LD_knocked − LD_clean, and patching_effect = logit_diff /
(LD_clean − LD_corrupt). −1: as much is lost as the corruption takes; 0: nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from torch import Tensor

from vlmtrace.core.schema import UNIT
from vlmtrace.inputs.batch_runs import PairRuns
from vlmtrace.methods.patching.metrics import patching_effect
from vlmtrace.models import VLM, Readout


def rows_of(
    batch: pd.DataFrame, runs: PairRuns, corruption: str, readout: Readout, model: VLM, columns: dict[str, Any]
) -> pd.DataFrame:
    """Rows of the module_patching table for one intervention in each clean run of a batch.

    Args:
        batch: its pairs
        runs: their clean and corrupt runs
        corruption: of the corrupt runs
        readout: of the clean runs under the intervention
        model: that was run
        columns: module, layer, token and token_role
    """

    def numbers(value: Callable[[Readout], Tensor]) -> list[Any]:
        return [value(found).cpu().numpy() for found in (readout, runs.clean_readout, runs.corrupt_readout)]

    (ld, clean_ld, corrupt_ld), (p, clean_p, _) = numbers(lambda r: r.logit_diff), numbers(lambda r: r.p_correct)
    return pd.DataFrame(
        {
            "sample_id": batch["sample_id"].to_numpy(),
            **({UNIT: batch[UNIT].to_numpy()} if UNIT in batch else {}),
            "corruption": corruption,
            "block": model.head_block.name,
            **{name: columns[name] for name in ("module", "layer")},
            "position": pd.array([pd.NA] * len(batch), dtype="Int64"),
            **{name: columns[name] for name in ("token", "token_role")},
            "p_correct": p,
            "p_diff": p - clean_p,
            "logit_diff": ld - clean_ld,
            # patching_effect measures from the corrupt run; here what is lost counts from the clean one.
            "patching_effect": patching_effect(ld, clean_ld, corrupt_ld) - 1,
            "contrast_token": runs.contrasts,
        }
    )
