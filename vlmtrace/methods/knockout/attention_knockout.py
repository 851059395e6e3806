"""Attention knockout and mean ablation of image tokens: what does the clean run lose without them?

Both act on the clean run, so an effect that takes the answer away is negative: logit_diff = LD_knocked − LD_clean, and
patching_effect = logit_diff / (LD_clean − LD_corrupt). −1: as much is lost as the corruption takes; 0: nothing.
Shapes: B pairs of a batch, Q queries, K keys, I image tokens, D their width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vlmtrace.core.arguments import Count, NonEmpty, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import UNIT, validate_pairs
from vlmtrace.inputs.batch_runs import PairRuns, repeated_runs
from vlmtrace.inputs.batching import batches_of_pairs
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.inputs.image_regions import (
    IMAGE_REGIONS,
    check_region,
    image_regions,
    is_region,
    named_positions,
)
from vlmtrace.inputs.image_tokens import mean_image_token
from vlmtrace.inputs.pair_runs import read_again
from vlmtrace.methods.patching.direction import in_direction
from vlmtrace.methods.patching.metrics import concat_in_order, patching_effect
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
            "distractor", "background"), "options", "all", or token roles; None: the model's own `edges`
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
                    rows = _rows(batch, runs, corruption, readout, model, columns | {"token_role": " → ".join(edge)})
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


@checked
def replace_image_tokens(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str = "image",
    regions: NonEmpty[str] = IMAGE_REGIONS,
    reference: pd.DataFrame | None = None,
    contrast: str = "answer",
) -> pd.DataFrame:
    """Put the mean image token in the place of image tokens, as the language side receives them in the clean run.

    Mean ablation of image tokens (Neo et al. 2025, https://arxiv.org/abs/2410.07149).

    Args:
        model: the model to run
        pairs: a pairs table, with mask columns for "object", "distractor" and "background"
        corruption: "image" or "text": effects are shares of the gap that it makes
        regions: which tokens are replaced; each region is one ablation
        reference: pairs whose clean images give the mean; None: `pairs`
        contrast: as in `patch_modules`

    Returns:
        the module_patching table, one row per pair and region: module is "image_embeddings", layer 0, position missing,
        token says how many tokens were replaced ("12 tokens"), token_role is the region; p_correct, p_diff, logit_diff
        and patching_effect as in `knock_out_attention`. A pair has no rows for a region that its image has nothing of

    Raises:
        VlmtraceError: a region is unknown, the table breaks the contract, or later layers of the model receive image
            features again, so that replacing them once does not remove the image

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=2)
        >>> effects = vt.replace_image_tokens(model, pairs, regions=["object", "image"])
        >>> effects.groupby("token_role")["patching_effect"].mean().round(1).abs().to_dict()
        {'image': 0.5, 'object': 0.0}
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    for region in regions:
        check_region(region)
    if model.injects_image_features_later:
        # Where no position is an image token, there is no attention to one that could be cut.
        seen = any(is_region(source) for source, _ in model.edges)
        instead = "cut attention instead (knock_out_attention)" if seen else "patch its modules instead (patch_modules)"
        raise VlmtraceError(
            f"{model.name} adds image features behind later layers too, so that replacing image tokens does not remove "
            f"the image: {instead}."
        )
    pairs = validate_pairs(pairs).reset_index(drop=True)
    mean = mean_image_token(model, pairs if reference is None else reference)
    tables = []
    with counter(len(pairs), f"replacing image tokens of {len(pairs)} pairs") as advance:
        for batch, runs, _ in batches_of_pairs(model, pairs, corruption, {model.head_block.name: []}, "all", contrast):
            chosen = [
                image_regions(model, pair, inputs_of_pair(runs.clean_inputs, i, len(batch)))
                for i, pair in enumerate(batch.to_dict("records"))
            ]
            with torch.no_grad():
                image = model.image_embeddings(runs.clean_inputs)  # (B, I, D)
                tables += _replaced(model, batch, runs, corruption, image, mean, regions, chosen)
            advance(len(batch))
    return concat_in_order(pairs, tables, "all")


def _replaced(
    model: VLM,
    batch: pd.DataFrame,
    runs: PairRuns,
    corruption: str,
    image: Tensor,
    mean: Tensor,
    regions: Sequence[str],
    chosen: Sequence[dict[str, Any]],
) -> list[pd.DataFrame]:
    """Rows for each region; all regions of all pairs go through the model as one batch."""
    position_masks = torch.zeros(len(regions), *image.shape[:2], dtype=torch.bool, device=image.device)  # (R, B, I)
    for number, region in enumerate(regions):
        for row, found in enumerate(chosen):
            if region in found:
                position_masks[number, row] = torch.as_tensor(found[region], device=image.device)
    ablated = torch.where(position_masks[..., None], mean.to(image.dtype), image)  # (R, B, I, D)
    readout = read_again(model, repeated_runs(runs, len(regions)), image=ablated.flatten(0, 1))
    tables = []
    for number, region in enumerate(regions):
        mine = position_masks[number]  # (B, I)
        columns = {
            "module": "image_embeddings",
            "layer": 0,
            "token": [f"{n} tokens" for n in mine.sum(1).tolist()],
            "token_role": region,
        }
        of_region = readout.rows(slice(number * len(batch), (number + 1) * len(batch)))
        rows = _rows(batch, runs, corruption, of_region, model, columns)
        tables.append(rows[mine.any(1).cpu().numpy()])
    return tables


def _rows(
    batch: pd.DataFrame, runs: PairRuns, corruption: str, readout: Readout, model: VLM, columns: dict[str, Any]
) -> pd.DataFrame:
    """Rows of a module_patching table for one intervention in each clean run of a batch.

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
