"""Claims about modules and heads found by patching: NOTICE, https://arxiv.org/abs/2406.16320."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vlmtrace.benchmarks.claims.material import POSITIONS, TASKS, Material, Number, half, number, units_of
from vlmtrace.core.schema import HEAD
from vlmtrace.inputs import by_corruption
from vlmtrace.methods.circuits import head_table, universality
from vlmtrace.methods.evaluation import USE
from vlmtrace.methods.patching import patch_modules


def modules(material: Material) -> list[Number]:
    """Largest mean effect of one module at one token, by kind of module.

    Layer and token are chosen on the discover pairs and measured on the verify pairs.

    Args:
        material: of any model
    """
    blocks = [material.model.head_block.name]
    discover, verify = (
        patch_modules(material.model, half(material.states, use), positions=POSITIONS, blocks=blocks)
        for use in ("discover", "verify")
    )
    found: list[Number] = []
    kinds = [name for name in material.model.head_block.modules if name != "residual"]
    attention = material.model.image_module
    for kind in [attention, *(name for name in kinds if name != attention)]:
        site = ["layer", "token_role"]
        of = discover[discover["module"] == kind].groupby(site)["patching_effect"].mean()
        layer, role = of.idxmax()
        mine = verify[(verify[["module", *site]] == [kind, layer, role]).all(axis=1)]
        what = "measured" if not found else kind.replace("_", " ")
        note = f"{kind.replace('_', ' ')} {layer} at {role}"
        found.append(number(what, mine["patching_effect"], units_of(mine), note=note))
    return found


def strongest_head(material: Material) -> list[Number]:
    """Mean effect of the strongest head, in rendered states under image corruption, and of the next four.

    Heads are chosen on the discover pairs and measured on the verify pairs.

    Args:
        material: of any model
    """
    mine = material.head_effects("rendered_states", "image")
    summed = mine.groupby([USE, "unit", "sample_id", *HEAD], observed=True)["patching_effect"].sum().reset_index()
    order = summed[summed[USE] == "discover"].groupby(HEAD, observed=True)["patching_effect"].mean().nlargest(5)
    verify = summed[summed[USE] == "verify"].set_index(HEAD)
    found = []
    for rank, head in enumerate(order.index):
        of = verify.loc[[head]]
        _, module, layer, index = head
        what = "measured" if rank == 0 else f"number {rank + 1}"
        found.append(
            number(what, of["patching_effect"], of["unit"], note=f"{module.replace('_', ' ')} {layer}.{index}")
        )
    return found


def universal(material: Material) -> list[Number]:
    """How many heads are important in every task and corruption, and how many chance would give.

    Args:
        material: of any model
    """
    cases = [(task, corruption) for task in TASKS for corruption in by_corruption(material.pairs(task))]
    effects = pd.concat([material.head_effects(*case) for case in cases], ignore_index=True)
    table = universality(head_table(effects[effects[USE] == "discover"], seed=material.seed), seed=material.seed)
    row = table[(table["scope"] == "all") & (table["criterion"] == "important")].iloc[0]
    note = f"of {row['n_tested']} heads; {row['m']} cases"
    return [
        Number("measured", row["n_heads"], np.nan, np.nan, int(row["n_tested"]), note),
        Number("by chance", row["expected"], np.nan, row["high"], int(row["n_tested"])),
    ]
