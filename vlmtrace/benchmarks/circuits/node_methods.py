"""Methods that give nodes a score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from vlmtrace.benchmarks.circuits.registry import circuit_method
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.attention.attention_weights import head_attention
from vlmtrace.methods.attribution.gradients import attribute_heads, attribute_modules
from vlmtrace.methods.edges.estimates import attribute_nodes
from vlmtrace.methods.edges.listing import edges
from vlmtrace.methods.explanation.search import NoGraph, explain
from vlmtrace.methods.patching.ablation import ablate
from vlmtrace.methods.patching.intervention import Patch
from vlmtrace.methods.patching.joint import patch_together
from vlmtrace.methods.relevancy.propagation import attention_graph
from vlmtrace.models import VLM
from vlmtrace.models.edges.nodes import INPUT, Node
from vlmtrace.models.edges.wiring import senders_of

#: Rankings that are drawn at random.
DRAWS = 50

#: Gradients that integrated gradients average.
STEPS = 8

#: Sets of tokens that CLEANN tries for each head.
CLEANN_SETS = 64


def scored_nodes(model: VLM) -> list[Node]:
    """Heads and mlps of a model's text side.

    Args:
        model: any whose edges are known
    """
    return [node for node in senders_of(model) if node.block != INPUT]


def _patches(nodes: Sequence[Node]) -> list[Patch]:
    return [
        Patch(node.block, node.module, node.layer or 0, None, None if node.head is None else (node.head,))
        for node in nodes
    ]


def _mean_magnitudes(labels: Sequence[str], effects: pd.DataFrame, per_pair: int) -> pd.DataFrame:
    """Magnitude of the mean logit difference of each label, whose rows repeat for every pair."""
    values = effects["logit_diff"].to_numpy().reshape(-1, per_pair)
    return pd.DataFrame({"node": labels, "score": np.abs(values.mean(0))})


def _patched(model: VLM, pairs: pd.DataFrame, corruption: str, direction: str) -> pd.DataFrame:
    nodes = scored_nodes(model)
    effects = patch_together(model, pairs, [[one] for one in _patches(nodes)], corruption, direction)
    return _mean_magnitudes([node.label for node in nodes], effects, len(nodes))


@circuit_method("exact nodes")
def exact_nodes(model: VLM, pairs: pd.DataFrame, corruption: str) -> pd.DataFrame:
    """Patching of every head and mlp, at all positions: its clean output in the corrupt run."""
    return _patched(model, pairs, corruption, "denoising")


@circuit_method("exact nodes, noising")
def exact_nodes_noising(model: VLM, pairs: pd.DataFrame, corruption: str) -> pd.DataFrame:
    """The same the other way round: its corrupt output in the clean run."""
    return _patched(model, pairs, corruption, "noising")


def _ablated(model: VLM, pairs: pd.DataFrame, corruption: str, method: str) -> pd.DataFrame:
    nodes = scored_nodes(model)
    effects = ablate(model, pairs, _patches(nodes), method, corruption)
    return _mean_magnitudes([node.label for node in nodes], effects, len(nodes))


@circuit_method("ablation by 0")
def ablation_by_zero(model: VLM, pairs: pd.DataFrame, corruption: str) -> pd.DataFrame:
    """0 in the place of every head's and mlp's output, in the clean run."""
    return _ablated(model, pairs, corruption, "zero")


@circuit_method("ablation by the mean")
def ablation_by_mean(model: VLM, pairs: pd.DataFrame, corruption: str) -> pd.DataFrame:
    """The mean over pairs in the place of every head's and mlp's output, in the clean run."""
    return _ablated(model, pairs, corruption, "mean")


def _attributed(model: VLM, pairs: pd.DataFrame, corruption: str, steps: int) -> pd.DataFrame:
    blocks = [name for name in model.blocks if name != "vision_encoder"]
    heads = attribute_heads(model, pairs, corruption, steps=steps)
    mlps = attribute_modules(model, pairs, corruption, ["mlp"], blocks=blocks, steps=steps).assign(head=-1)
    effects = pd.concat([heads, mlps])
    summed = effects.groupby(["block", "module", "layer", "head"], observed=True)["logit_diff"].sum() / len(pairs)
    labels = [
        Node(block, module, layer, None if head < 0 else head).label for block, module, layer, head in summed.index
    ]
    return pd.DataFrame({"node": labels, "score": summed.abs().to_numpy()})


@circuit_method("attribution")
def attribution(model: VLM, pairs: pd.DataFrame, corruption: str) -> pd.DataFrame:
    """Attribution patching of outputs: gradient times difference (of a BLIP's decoder, mlps only)."""
    return _attributed(model, pairs, corruption, 1)


@circuit_method("integrated gradients")
def integrated_gradients(model: VLM, pairs: pd.DataFrame, corruption: str) -> pd.DataFrame:
    """The same with eight gradients between the embeddings of both runs."""
    return _attributed(model, pairs, corruption, STEPS)


def _inputs(model: VLM, pairs: pd.DataFrame, corruption: str, method: str) -> pd.DataFrame:
    effects = attribute_nodes(model, pairs, corruption, method)
    means = effects.groupby("receiver", observed=True)["logit_diff"].mean().abs()
    receivers = edges(model)[["receiver", "receiver_input"]].astype(str).drop_duplicates().set_index("receiver")
    inputs = receivers["receiver_input"].loc[means.index.astype(str)]
    nodes = [
        label if name == "input" else label.removesuffix(f".{name}")
        for label, name in zip(inputs.index, inputs, strict=True)
    ]
    best = pd.Series(means.to_numpy()).groupby(nodes).max()
    return pd.DataFrame({"node": best.index, "score": best.to_numpy()})


@circuit_method("exact inputs")
def exact_inputs(model: VLM, pairs: pd.DataFrame, corruption: str) -> pd.DataFrame:
    """Patching of what enters every head and mlp; of queries, keys and values the largest."""
    return _inputs(model, pairs, corruption, "exact")


@circuit_method("AtP")
def atp(model: VLM, pairs: pd.DataFrame, corruption: str) -> pd.DataFrame:
    """The same, estimated from one gradient in the corrupt run."""
    return _inputs(model, pairs, corruption, "AtP")


@circuit_method("QK-fix")
def qk_fix(model: VLM, pairs: pd.DataFrame, corruption: str) -> pd.DataFrame:
    """AtP with what the node gives computed."""
    return _inputs(model, pairs, corruption, "QK-fix")


@circuit_method("AtP*")
def atp_star(model: VLM, pairs: pd.DataFrame, corruption: str) -> pd.DataFrame:
    """QK-fix with gradients that leave out one layer each."""
    return _inputs(model, pairs, corruption, "AtP*")


@circuit_method("attention weight")
def attention_weight(model: VLM, pairs: pd.DataFrame, corruption: str) -> pd.DataFrame:
    """The largest share of a head's attention, over tokens of the clean prompt, that falls on the object."""
    table = head_attention(model, pairs)
    best = table.groupby(["sample_id", "block", "module", "layer", "head"], observed=True)["object"].max()
    means = best.groupby(["block", "module", "layer", "head"], observed=True).mean()
    return pd.DataFrame({"node": [Node(*head).label for head in means.index], "score": means.to_numpy()})


@circuit_method("relevancy")
def relevancy(model: VLM, pairs: pd.DataFrame, corruption: str) -> pd.DataFrame:
    """Attention times its gradient in the clean run, positive parts, summed over a head's weights."""
    sums: dict[str, float] = {}
    for i in range(len(pairs)):
        inputs = run_inputs(model, pairs.iloc[[i]], "clean")
        with attention_graph(model, inputs, model.answer_tokens(inputs)[:1], False) as (logits, weights):
            gradients = torch.autograd.grad(logits.sum(), list(weights.values()))
            for (site, weight), gradient in zip(weights.items(), gradients, strict=True):
                found = (weight.detach() * gradient).clamp(min=0).sum((0, 2, 3)).tolist()
                for head, value in enumerate(found):
                    label = Node(site.block, site.module, site.layer, head).label
                    sums[label] = sums.get(label, 0.0) + value / len(pairs)
    return pd.DataFrame({"node": list(sums), "score": list(sums.values())})


@circuit_method("CLEANN", most_pairs=1)
def cleann(model: VLM, pairs: pd.DataFrame, corruption: str) -> pd.DataFrame:
    """How soon the search along a head's causal graph changes the answer: 1 / tries."""
    block, rows = model.head_block, []
    for pair in pairs.to_dict("records"):
        for layer, head in block.every_head:
            try:
                found = explain(
                    model,
                    pair["clean_image"],
                    pair["clean_prompt"],
                    layer=layer,
                    heads=[head],
                    max_sets=CLEANN_SETS,
                    n_random=0,
                    n_blind=0,
                ).tries
            except NoGraph:
                found = None
            label = Node(block.name, model.image_module, layer, head).label
            rows.append((label, 0.0 if found is None else 1 / found))
    means = pd.DataFrame(rows, columns=["node", "score"]).groupby("node", sort=False)["score"].mean()
    return means.reset_index()


@circuit_method("random")
def random(model: VLM, pairs: pd.DataFrame, corruption: str) -> pd.DataFrame:
    """Fifty rankings drawn at random."""
    listed = [edges(model)[["sender", "receiver"]], pd.DataFrame({"node": [one.label for one in scored_nodes(model)]})]
    table = pd.concat([pd.concat(listed, ignore_index=True)] * DRAWS, ignore_index=True)
    # Other pairs, other draws; the same pairs, the same draws.
    seed = tuple(f"{model.name} {corruption} {pairs['clean_prompt'].iloc[0]} {pairs['sample_id'].iloc[0]}".encode())
    draw = np.repeat(np.arange(DRAWS), len(table) // DRAWS)
    return table.assign(draw=draw, score=np.random.default_rng(seed).random(len(table)))
