"""Attention knockout: what does the clean run lose where some positions cannot attend to others?

Shapes: B pairs of a batch, Q queries, K keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vlmtrace.core.arguments import Count, NonEmpty, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import validate_pairs
from vlmtrace.inputs.batch_runs import PairRuns
from vlmtrace.inputs.batching import batches_of_pairs
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.inputs.image_regions import is_region
from vlmtrace.inputs.named_positions import named_positions
from vlmtrace.inputs.pair_runs import read_again
from vlmtrace.methods.knockout.rows import rows_of
from vlmtrace.methods.patching.direction import in_direction
from vlmtrace.methods.patching.metrics import concat_in_order
from vlmtrace.methods.patching.together import is_fast, readout_of
from vlmtrace.models import VLM, Inputs, Readout, Site
from vlmtrace.models.attention_mask import cut
from vlmtrace.models.interventions import Interventions, Setting
from vlmtrace.models.layer_kinds import check_some_attend
from vlmtrace.models.vlm import inputs_of_pair

#: (source, target): the positions attended to, and those that attend.
AttentionEdge = tuple[str, str]

#: Share of the layers that a window takes where none is given: about a fifth, as in the papers (9 of 48).
WINDOW_SHARE = 0.2


@checked
def knock_out_attention(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str = "image",
    edges: NonEmpty[AttentionEdge] | None = None,
    window: Count | None = None,
    contrast: str = "answer",
) -> pd.DataFrame:
    """Forbid some positions to attend to others in the clean run, in a window of layers around each layer.

    Attention knockout (Geva et al. 2023, https://arxiv.org/abs/2304.14767).

    Some models mix layers of attention with layers that carry a state from position to position (linear attention,
    short convolutions) or look at the image alone. From those no single position can be taken away: they run on as they
    are, and a window is made of layers of attention that follow one another with such layers left out. What the others
    pass on stays, so that an edge that is cut in all layers of attention may still be there in part.

    Args:
        model: the model to run
        pairs: a pairs table, with mask columns for "object", "distractor" and "background"
        corruption: "image" or "text": effects are shares of the gap that it makes
        edges: (source, target) names: what is attended to, and what attends. Regions of the image ("image", "object",
            "distractor", "background"), "options", "question" (the prompt's own words), "text" (all that shows no
            image), "all", or token roles; None: the model's own `edges`
        window: how many layers are knocked out at once; None: a fifth of them. Only layers of attention count
        contrast: as in `patch_modules`

    Returns:
        The module_patching table, one row per pair, edge and layer of attention (the middle of the window): position
        is missing, token says how many layers were knocked out ("2 layers"), and which, where others have no attention
        ("2 layers: 3, 7"), token_role is "source → target", and

        - p_correct: probability of the correct answer, of all its tokens (0 to 1); p_diff: that less the clean run's
        - logit_diff: LD_knocked − LD_clean, in logits
        - patching_effect: that over LD_clean − LD_corrupt: −1 where as much is lost as the corruption takes

        A pair has no rows for an edge that its image or prompt has nothing of.

    Raises:
        VlmtraceError: a name is unknown, the window is not a number of layers, the table breaks the contract, or no
            layer of the model has attention to single positions

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=2)
        >>> effects = vt.knock_out_attention(model, pairs, edges=[("image", "options"), ("options", "all")])
        >>> effects.groupby("token_role")["patching_effect"].min().round(1).abs().to_dict()
        {'image → options': 0.3, 'options → all': 0.0}
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    pairs = validate_pairs(pairs).reset_index(drop=True)
    block = model.head_block
    chosen = list(model.edges if edges is None else edges)
    windows = _windows(model, window)
    tables = []
    with counter(len(pairs), f"knockouts in {len(pairs)} pairs") as advance:
        for batch, runs, _ in batches_of_pairs(model, pairs, corruption, {block.name: []}, "all", contrast):
            cuts = _blocked(model, batch, runs.clean_inputs, chosen)
            readouts = _cut_readouts(model, runs, cuts, list(windows.values()))
            for edge, (module, blocked), by_layer in zip(chosen, cuts, readouts, strict=True):
                usable = blocked.flatten(1).any(1).cpu().numpy()  # (B,)
                for (layer, layers), readout in zip(windows.items(), by_layer, strict=True):
                    which = f": {', '.join(map(str, layers))}" if block.kinds else ""
                    columns = {"module": module, "layer": layer, "token": f"{len(layers)} layers{which}"}
                    rows = rows_of(batch, runs, corruption, readout, model, columns | {"token_role": " → ".join(edge)})
                    tables.append(rows[usable])
            advance(len(batch))
    return concat_in_order(pairs, tables, "all")


def _windows(model: VLM, window: int | None) -> dict[int, list[int]]:
    """The layers that are knocked out at once, by the layer in their middle; all of them attend to single positions."""
    block = model.head_block
    layers = check_some_attend(model.name, block)
    size = max(1, round(WINDOW_SHARE * len(layers))) if window is None else window
    if not 1 <= size <= len(layers):
        kind = f"layers of attention ({', '.join(map(str, layers))})" if block.kinds else "layers"
        raise VlmtraceError(f"window={size} is not a number of {kind} of {block.name}: choose 1 to {len(layers)}.")
    firsts = [i - (size - 1) // 2 for i in range(len(layers))]
    # Windows at the ends are cut short, so that each is centred on its layer.
    return {layer: layers[max(0, first) : first + size] for layer, first in zip(layers, firsts, strict=True)}


@torch.no_grad()
def _cut_readouts(
    model: VLM, runs: PairRuns, cuts: Sequence[tuple[str, Tensor]], windows: Sequence[Sequence[int]]
) -> list[list[Readout]]:
    """Readouts (B,) of the clean runs without some attention, by cut (module, which keys it takes) and window."""
    block = model.head_block.name
    layers = sorted({layer for window in windows for layer in window})
    blocked: dict[Site, Setting] = {}
    for module in dict.fromkeys(module for module, _ in cuts):
        mine = [number for number, (its, _) in enumerate(cuts) if its == module]
        for layer in layers:
            if not model.head_block.has(module, layer):
                continue  # nothing to hide in it
            reaching = [(cut, i) for cut in mine for i, window in enumerate(windows) if layer in window]
            masks = torch.stack([cuts[cut][1] for cut, _ in reaching], dim=1)  # (B, n, Q, K)
            blocked[Site(block, module, layer)] = Setting([cut * len(windows) + i for cut, i in reaching], masks)
    given = Interventions(len(cuts) * len(windows), blocked=blocked)
    # What `readout_of` changes is the corrupt run: here that is the clean one.
    swapped = in_direction(runs, "noising")
    if is_fast(model, swapped, given):
        found = readout_of(model, swapped, given)  # (B, cut · window)
        columns = [found.column(i) for i in range(len(given))]
        return [columns[start : start + len(windows)] for start in range(0, len(given), len(windows))]
    readouts = []
    for module, keys in cuts:
        by_window = []
        for window in windows:
            with cut(model, module, window, keys):
                by_window.append(read_again(model, runs))
        readouts.append(by_window)
    return readouts


def _blocked(
    model: VLM, batch: pd.DataFrame, inputs: Inputs, edges: Sequence[AttentionEdge]
) -> list[tuple[str, Tensor]]:
    """By edge, the attention module that it belongs to, and which keys it takes from which queries: (B, Q, K) bool."""
    block = model.head_block
    across = [is_region(source) and model.image_module == "cross_attention" for source, _ in edges]
    # Names by the block in whose positions they are sought.
    names = {model.image_block: ["all"]}
    names[block.name] = ["all", *(target for _, target in edges)]  # both may be the same block
    for (source, _), looks_across in zip(edges, across, strict=True):
        names[model.image_block if looks_across else block.name].append(source)
    names = {of_block: list(dict.fromkeys(wanted)) for of_block, wanted in names.items()}
    blocked: list[list[np.ndarray]] = [[] for _ in edges]
    for i, pair in enumerate(batch.to_dict("records")):
        one = inputs_of_pair(inputs, i, len(batch))
        found = {of_block: named_positions(model, pair, of_block, one, wanted) for of_block, wanted in names.items()}
        for (source, target), looks_across, masks in zip(edges, across, blocked, strict=True):
            queries, keys = found[block.name], found[model.image_block if looks_across else block.name]
            none = np.zeros_like
            forbidden = np.outer(
                queries.get(target, none(queries["all"])), keys.get(source, none(keys["all"]))
            )  # (Q, K)
            if not looks_across:
                # A position always sees itself, or nothing would be left of a softmax.
                np.fill_diagonal(forbidden, False)
            masks.append(forbidden)
    modules = [model.image_module if looks_across else "self_attention" for looks_across in across]
    tensors = [torch.as_tensor(np.stack(masks), device=model.device) for masks in blocked]
    return list(zip(modules, tensors, strict=True))
