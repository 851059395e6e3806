"""The same head patches with two libraries that one would use instead, as their documentation shows.

nnsight: one trace a batch, each row of the batch with its own intervention. pyvene: one intervention with a subspace
for each head; a batch holds the positions of one head, since a batch shares its subspace. Both run the whole model
for every row of a batch. Installed by the extra "bench"; a library that is missing is left out.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.models import VLM, Inputs

Timer = Callable[[Callable[[], Any]], tuple[float, Any]]


class AnswerModule(nn.Module):
    """The model as one module from inputs to answer logits, which both libraries need."""

    def __init__(self, model: VLM):
        """Wrap a model.

        Args:
            model: whose answer
        """
        super().__init__()
        self.hf, self.config, self.device = model.hf, model.hf.config, model.device
        self._answer = model.answer_logits

    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        """Answer logits (pair, vocabulary)."""
        return self._answer({"input_ids": input_ids, "pixel_values": pixel_values})


def patch_with_libraries(
    model: VLM, pair: pd.DataFrame, table: pd.DataFrame, timer: Timer
) -> dict[str, tuple[float, pd.DataFrame]]:
    """Patch the heads of one middle layer, one position each per head, with each installed library.

    Args:
        model: a model with cross-attention to the image
        pair: a pairs table of one row
        table: the sweep's own table, which says what there is to patch
        timer: work -> (seconds, result)

    Returns:
        by library: seconds per patch, and a table of layer, head, position, value (LD_patched − LD_corrupt)
    """
    clean, corrupt = (run_inputs(model, pair, run) for run in ("clean", "image"))
    ids = model.answer_ids(pair["correct_answer"], pair["incorrect_answer"])[0]
    layer = model.head_block.n_layers // 2
    positions = sorted(set(table["position"]))
    heads = [0, model.head_block.n_heads - 1]
    sites = [(head, position) for head in heads for position in positions]
    with torch.no_grad():
        logits = model.answer_logits(corrupt)[0]
    base = (logits[ids[0]] - logits[ids[1]]).item()
    found = {}
    for name, patch in {"nnsight": _nnsight, "pyvene": _pyvene}.items():
        if importlib.util.find_spec(name) is None:
            continue
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            took, logits = timer(lambda patch=patch: patch(model, clean, corrupt, layer, sites))  # type: ignore[misc]
        values = (logits[:, ids[0]] - logits[:, ids[1]]).float() - base
        rows = [(layer, head, position) for head, position in sites]
        frame = pd.DataFrame(rows, columns=["layer", "head", "position"]).assign(value=values.tolist())
        found[name] = (took / len(sites), frame)
    return found


def _repeat(inputs: Inputs, n: int) -> Inputs:
    return {name: value.expand(n, *value.shape[1:]) for name, value in inputs.items()}


def _nnsight(model: VLM, clean: Inputs, corrupt: Inputs, layer: int, sites: list[tuple[int, int]]) -> Tensor:
    from nnsight import NNsight

    traced = NNsight(AnswerModule(model))
    width = model.hf.config.text_config.hidden_size // model.head_block.n_heads
    batch = _repeat(corrupt, len(sites))
    # nnsight serves `.output` on every module, so BLIP's submodule of that name is `.E_output`.
    with traced.trace(**clean):
        clean_context = traced.hf.text_encoder.encoder.layer[layer].crossattention.E_output.dense.input.save()
    with traced.trace(**batch):
        context = traced.hf.text_encoder.encoder.layer[layer].crossattention.E_output.dense.input
        for row, (head, position) in enumerate(sites):
            columns = slice(head * width, (head + 1) * width)
            context[row, position, columns] = clean_context[0, position, columns]
        logits = traced.output.save()
    return logits


def _pyvene(model: VLM, clean: Inputs, corrupt: Inputs, layer: int, sites: list[tuple[int, int]]) -> Tensor:
    import pyvene

    size = model.hf.config.text_config.hidden_size
    width = size // model.head_block.n_heads
    parts = [[head * width, (head + 1) * width] for head in range(model.head_block.n_heads)]
    site = {
        "component": f"hf.text_encoder.encoder.layer[{layer}].crossattention.output.dense.input",
        "subspace_partition": parts,
        "intervention": pyvene.VanillaIntervention(embed_dim=size, subspace_partition=parts),
    }
    intervened = pyvene.IntervenableModel([site], model=AnswerModule(model))
    logits = []
    for head in dict.fromkeys(head for head, _ in sites):
        where = [[position] for other, position in sites if other == head]
        result = intervened(
            base=_repeat(corrupt, len(where)),
            sources=[_repeat(clean, len(where))],
            unit_locations={"sources->base": ([where], [where])},
            subspaces=[[[head]] * len(where)],
        )
        logits.append(result[1])
    return torch.cat(logits)
