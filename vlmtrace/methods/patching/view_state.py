"""What the browser draws of an example's patches, whatever is chosen among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlmtrace.display.wording import CORRUPTION, readable
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.methods.patching.chosen import Chosen
from vlmtrace.methods.patching.in_browser import by_layer, number, rows_of, told, worth_showing
from vlmtrace.methods.patching.intervention import Outcome
from vlmtrace.methods.patching.pair_effects import PairEffects
from vlmtrace.methods.patching.waterfall import DRAWS


def shown_state(
    numbers: PairEffects, place: tuple[str, str], positions: Sequence[int], chosen: Chosen, outcome: Outcome
) -> dict[str, Any]:
    """The maps, the intervention and what comes of it.

    Args:
        numbers: of the example, under the chosen corruption and in the chosen direction
        place: (block, module) of the maps
        positions: where heads are patched; none: everywhere
        chosen: the patches
        outcome: what they do together

    Returns:
        in JSON, see PatchState of `state.js`
    """
    example, block = numbers.example, place[0]
    model, away = example.model, chosen.put_away
    known = model.blocks[block]
    effects, heads = numbers.by_position(place), numbers.by_head(place, positions)
    estimated_heads = heads is not None and bool(heads["is_estimate"].any())
    at_image = example.image_positions(block)
    boxes = example.cells(block) if at_image.any() else np.empty((0, 4))
    placed = ~np.isnan(boxes).any(axis=1)
    in_image = at_image.nonzero()[0][placed]
    options = example.runs(numbers.corruption).answer_ids[0].tolist()
    distribution = worth_showing(outcome.table(3), options)
    _, question = CORRUPTIONS[numbers.corruption]
    places = [[b.name, m, f"{readable(b.name)}: {readable(m)}"] for b in model.blocks.values() for m in b.modules]
    return {
        "example": f"{id(example)}",
        "corruptions": {name: CORRUPTION[name] for name in example.corruptions},
        "corruption": numbers.corruption, "place": list(place),
        "places": places,
        "layers": known.n_layers, "heads": known.n_heads,
        "tokens": example.tokens(block).to_dict("records"), "inImage": in_image.tolist(),
        "boxes": boxes[placed].round(6).tolist(),
        "effects": by_layer(effects, "position", known.n_layers),
        "estimated": {"tokens": bool(effects["is_estimate"].any()), "heads": estimated_heads},
        "headEffects": None if heads is None else by_layer(heads, "head", known.n_layers),
        "positions": list(positions), "patches": [told(example, patch) for patch in chosen.patches],
        "questions": {"clean": example.question, "corrupt": str(example.frame().iloc[0][question])},
        "direction": numbers.direction, "waterfall": rows_of(numbers.waterfall(chosen.patches)), "draws": DRAWS,
        "keeps": chosen.keeps, "carried": chosen.carried,
        "away": None if away is None or chosen.carried or chosen.patches else
        {"name": away.name, "n": len(away.patches)},
        "canUndo": bool(chosen.before), "options": options,
        "distribution": distribution.to_dict("records"),
        "answers": {run: outcome.answer(run) for run in outcome.logits},
        "logitDiff": {run: outcome.logit_diff(run) for run in outcome.logits},
        "effect": number(outcome.patching_effect),
    }  # fmt: skip
