"""The proof of a planted circuit: interchange accuracy of its nodes, and effects of all others.

Interchange interventions: a node gives what it gives in another run, on another picture or another question. If it
carries what it is said to carry, and nothing else, the answer is that of the circuit's meaning with this variable
changed (Geiger et al. 2021, https://arxiv.org/abs/2106.02997; for planted circuits Gupta et al. 2024, InterpBench,
https://arxiv.org/abs/2407.14494).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.models import VLM, Inputs, Trace
from vlmtrace.models.edges.nodes import IMAGE, PROMPT, Node
from vlmtrace.models.edges.wiring import senders_of
from vlmtrace.models.hooks import attach_hooks
from vlmtrace.models.types import Site
from vlmtrace.tasks.loading import load_pairs
from vlmtrace.tasks.rendered.words import COLORS, NEITHER
from vlmtrace.training.planted.meaning import Facts, accepted, expected_logits
from vlmtrace.training.planted.plan import Plan
from vlmtrace.training.planted.words import GAIN, first_id

#: Seed of the pairs that a proof is made on.
PROOF_SEED = 2000

#: How far the logits of a run may be from those of a circuit's meaning, as a share of the logit of a full answer, so
#: that its pair is used: what a picture shows is seen for certain.
CLEARLY = 0.05


class Run(NamedTuple):
    """One run of a batch of pairs.

    Attributes:
        inputs: of the model
        trace: what its text side leaves behind
        facts: by pair, what the run is about
    """

    inputs: Inputs
    trace: Trace
    facts: list[Facts]


#: Clean, image-corrupt and text-corrupt run.
Runs = dict[str, Run]


def color_pairs(n: int, seed: int = PROOF_SEED, split: str = "test") -> pd.DataFrame:
    """Minimal pairs of the task that planted models do: "Is this circle red or blue?".

    Args:
        n: how many
        seed: another seed gives other pairs
        split: of the rendered world

    Returns:
        a pairs table
    """
    pairs = load_pairs("rendered_states", n=6 * -(-n // 2), seed=seed, split=split)
    return pairs[pairs["category"] == "color"].head(n).reset_index(drop=True)


def batches_of_runs(model: VLM, plan: Plan, pairs: pd.DataFrame) -> Iterator[Runs]:
    """Run pairs, those of one length together, and leave out those of which the model does not see enough.

    Its eyes are trained, not planted: they can take one thing for another, or a color for two.

    Args:
        model: with a planted circuit
        plan: the circuit
        pairs: from `color_pairs`

    Yields:
        the runs of some pairs: the answers of all of them are those of the circuit's meaning, by no less than `CLEARLY`
    """
    for _, group in pairs.groupby(pairs["clean_prompt"].map(model.count_tokens)):
        clear = torch.ones(len(group), dtype=torch.bool)
        for run in ("clean", "image", "text"):
            logits = model.answer_logits(run_inputs(model, group, run))
            errors = [
                largest_error(model, row, expected_logits(plan, facts, facts))
                for row, facts in zip(logits, _facts(group, run), strict=True)
            ]
            clear &= torch.tensor(errors) <= CLEARLY
        group = group[clear.numpy()].reset_index(drop=True)
        if len(group):
            yield {run: _run(model, group, run) for run in ("clean", "image", "text")}


def largest_error(model: VLM, logits: Tensor, wanted: Mapping[str, float]) -> float:
    """How far logits are from those of a circuit's meaning, as a share of the logit of a full answer.

    Args:
        model: whose words
        logits: (vocabulary,)
        wanted: by word
    """
    return max(abs(logits[first_id(model.tokenizer, word)].item() - logit) for word, logit in wanted.items()) / GAIN


def _run(model: VLM, pairs: pd.DataFrame, run: str) -> Run:
    inputs = run_inputs(model, pairs, run)
    return Run(inputs, model.trace(inputs), _facts(pairs, run))


def _facts(pairs: pd.DataFrame, run: str) -> list[Facts]:
    prompts = pairs["corrupt_prompt" if run == "text" else "clean_prompt"]
    colors = pairs["incorrect_answer" if run == "image" else "correct_answer"]
    return [Facts(color, _options(prompt)) for color, prompt in zip(colors, prompts, strict=True)]


def _options(prompt: str) -> tuple[str, str]:
    first, second = (word for word in prompt.rstrip("?").split() if word in COLORS)
    return first, second


def _right_answer(facts: Facts) -> str:
    return facts.color if facts.color in facts.options else NEITHER


def _words(model: VLM, logits: Tensor) -> list[str]:
    """The words that are answered."""
    return model.tokenizer.convert_ids_to_tokens(logits.argmax(-1).tolist())


def interchanged(
    model: VLM, base: Run, source: Trace, nodes: Sequence[Node], rows: Sequence[int] | None = None
) -> Tensor:
    """Logits (P, vocabulary) of a run in which some nodes give what they give in another one, at all positions.

    Args:
        model: any
        base: the run
        source: trace of the other one
        nodes: heads and mlps
        rows: for each pair of the run, which one of the other run; None: the same
    """
    order = list(range(len(base.facts))) if rows is None else list(rows)
    return _with(model, base, nodes, lambda site: source[site][order])


def knocked_out(model: VLM, base: Run, nodes: Sequence[Node]) -> Tensor:
    """Logits (P, vocabulary) of a run in which some nodes give 0.

    Args:
        model: any
        base: the run
        nodes: heads and mlps
    """
    return _with(model, base, nodes, lambda site: torch.zeros_like(base.trace[site]))


@torch.no_grad()
def _with(model: VLM, base: Run, nodes: Sequence[Node], given: Callable[[Site], Tensor]) -> Tensor:
    """Logits of a run with some nodes' outputs replaced."""
    by_site: dict[Site, list[int | None]] = {}
    for node in nodes:
        assert node.layer is not None, "the node is in a stack"
        by_site.setdefault(Site(node.block, node.module, node.layer), []).append(node.head)
    hooks = []
    for site, heads in by_site.items():
        value = given(site)
        width = value.shape[-1] if heads == [None] else value.shape[-1] // model.blocks[site.block].heads_at(site.layer)
        columns = torch.zeros(value.shape[-1], dtype=torch.bool)
        for head in heads:
            columns[(head or 0) * width : ((head or 0) + 1) * width] = True
        hooks.append((model.hook_point(site), partial(_replaced, value, columns)))
    with attach_hooks(hooks, n_pairs=len(base.facts)):
        return model.answer_logits(base.inputs)


def _replaced(value: Tensor, columns: Tensor, found: Tensor) -> Tensor:
    return torch.where(columns, value, found)


def interchange_accuracy(model: VLM, plan: Plan, batches: Sequence[Runs]) -> pd.DataFrame:
    """How often the answer is that of the circuit's meaning, where planted nodes give what they give in another run.

    The other run is the pair's own with the other picture, or the other question, or another pair's clean run.

    Args:
        model: with the circuit
        plan: the circuit
        batches: of runs

    Returns:
        a row for each node (and for those that are `joint`, together): node, source, accuracy, n, largest_error (of the
        logit of an answer, as a share of that of a full one)
    """
    sets = [(name,) for name in plan.nodes] + ([plan.joint] if plan.joint else [])
    rows = []
    for names in sets:
        nodes = [plan.nodes[name] for name in names]
        for source in ("image", "text", "another"):
            right, errors = [], []
            for runs in batches:
                base, other = runs["clean"], runs["clean" if source == "another" else source]
                shift = int(source == "another")
                order = [(i + shift) % len(base.facts) for i in range(len(base.facts))]
                logits = interchanged(model, base, other.trace, nodes, order)
                for i, (word, facts) in enumerate(zip(_words(model, logits), base.facts, strict=True)):
                    wanted = expected_logits(plan, facts, other.facts[order[i]], frozenset(names))
                    right.append(word in accepted(wanted))
                    errors.append(largest_error(model, logits[i], wanted))
            rows.append((" and ".join(names), source, sum(right) / len(right), len(right), max(errors)))
    return pd.DataFrame(rows, columns=["node", "source", "accuracy", "n", "largest_error"])


def outside_effects(model: VLM, plan: Plan, batches: Sequence[Runs]) -> pd.DataFrame:
    """What nodes outside a circuit change: each alone, and all of them together.

    Args:
        model: with the circuit
        plan: the circuit
        batches: of runs

    Returns:
        a row for each node and corruption ("all": all of them at once): node, corruption, effect (largest share of the
        difference between clean and corrupt run that is lost where the node gives what it gives in the corrupt run,
        without its sign), unchanged (share of answers)
    """
    outside = [node for node in senders_of(model) if node not in (IMAGE, PROMPT, *plan.nodes.values())]
    rows = []
    for name, nodes in [("all", outside), *((node.label, [node]) for node in outside)]:
        for corruption in ("image", "text"):
            lost, same = [], []
            for runs in batches:
                base, other = runs["clean"], runs[corruption]
                logits = interchanged(model, base, other.trace, nodes)
                ids = torch.tensor(
                    [
                        [first_id(model.tokenizer, _right_answer(one)) for one in both]
                        for both in zip(base.facts, other.facts, strict=True)
                    ]
                )
                clean, corrupt, now = (
                    (chosen[:, 0] - chosen[:, 1])
                    for chosen in (one.gather(1, ids) for one in (base.trace.logits, other.trace.logits, logits))
                )
                lost.append(((clean - now) / (clean - corrupt)).abs())
                same.append(logits.argmax(-1) == base.trace.logits.argmax(-1))
            rows.append((name, corruption, torch.cat(lost).max().item(), torch.cat(same).float().mean().item()))
    return pd.DataFrame(rows, columns=["node", "corruption", "effect", "unchanged"])


def without(model: VLM, plan: Plan, batches: Sequence[Runs]) -> pd.DataFrame:
    """How often the answer stays right where planted nodes give 0: what a circuit can do without.

    Args:
        model: with the circuit
        plan: the circuit
        batches: of runs

    Returns:
        a row for each node (and for those that are `joint`, together): node, right, neither (shares of answers)
    """
    sets = [(name,) for name in plan.nodes] + ([plan.joint] if plan.joint else [])
    rows = []
    for names in sets:
        words, facts = [], []
        for runs in batches:
            words += _words(model, knocked_out(model, runs["clean"], [plan.nodes[name] for name in names]))
            facts += runs["clean"].facts
        right = [word == _right_answer(one) for word, one in zip(words, facts, strict=True)]
        rows.append((" and ".join(names), sum(right) / len(right), words.count(NEITHER) / len(words)))
    return pd.DataFrame(rows, columns=["node", "right", "neither"])
