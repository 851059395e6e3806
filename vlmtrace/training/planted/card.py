"""What lies beside a planted model's weights: the processor, circuit.json, and a model card with its proof."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pandas as pd

from vlmtrace.core.files import write_atomically
from vlmtrace.methods.evaluation import accuracy_table, evaluate
from vlmtrace.models import load_model
from vlmtrace.training.planted.known import corruptions_of, edges_of_plan, write_circuit
from vlmtrace.training.planted.plan import Plan
from vlmtrace.training.planted.proof import (
    CLEARLY,
    batches_of_runs,
    color_pairs,
    interchange_accuracy,
    outside_effects,
    without,
)

#: Pairs that interchange accuracy is measured on, and those on which every other node is tried.
N_PAIRS, N_OUTSIDE = 80, 10


def save_with_card(model: Any, processor: Any, plan: Plan, architecture: str, folder: Path) -> None:
    """Write weights in half precision, processor, circuit.json and README.md.

    Args:
        model: of transformers
        processor: of transformers
        plan: the circuit
        architecture: "llava" or "blip"
        folder: of the model
    """
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    write_circuit(plan, architecture, folder)
    with write_atomically(folder / "README.md") as temporary:
        temporary.write_text(_card(plan, architecture, folder))


def _card(plan: Plan, architecture: str, folder: Path) -> str:
    model = load_model(folder)
    pairs = color_pairs(N_PAIRS)
    evaluated = accuracy_table(evaluate(model, pairs))[["measure", "accuracy", "n"]]
    batches = list(batches_of_runs(model, plan, pairs))
    clear = sum(len(runs["clean"].facts) for runs in batches)
    accuracy = interchange_accuracy(model, plan, batches)
    gone = without(model, plan, batches)
    few = list(batches_of_runs(model, plan, color_pairs(N_OUTSIDE)))
    outside = outside_effects(model, plan, few)
    together = outside[outside["node"] == "all"]
    alone = outside[outside["node"] != "all"]
    name = f"planted-{plan.kind}-{architecture}"
    nodes = pd.DataFrame(
        [(f"`{one.node.label}`", one.name, one.does, ", ".join(corruptions_of(plan, one.name))) for one in plan.parts],
        columns=["node", "name", "does", "differs under"],
    )
    edges = pd.DataFrame(
        [
            (f"`{edge.sender.label}`", f"`{edge.receiver.label}`", ", ".join(link.corruptions) or "-")
            for edge, link in zip(edges_of_plan(plan), plan.links, strict=True)
        ],
        columns=["sender", "receiver", "differs under"],
    )
    joint = ""
    if plan.joint:
        joint = textwrap.fill(
            f"{' and '.join(plan.joint).capitalize()} back each other up: where one of them carries another color, "
            "both colors stand in the stream, each in full, and two options of equal logits are the answer; where one "
            "gives nothing, the other is enough.",
            116,
        )
        joint = f"\n{joint}\n"
    unchanged = "No answer changes." if (outside["unchanged"] == 1).all() else "Some answers change."
    others = textwrap.fill(
        f"All other {alone['node'].nunique()} nodes, on {sum(len(runs['clean'].facts) for runs in few)} pairs: where "
        "one of them gives what it gives in the corrupt run, at most "
        f"{alone['effect'].max():.2%} of the difference between clean and corrupt run is lost, in any pair; where all "
        f"of them do at once, at most {together['effect'].max():.2%}. {unchanged}",
        116,
    )
    encoder = "tiny-blip's" if architecture == "blip" else "tiny-llava's"
    made = textwrap.fill(
        f"Its vision encoder, {encoder}, is trained; what a patch shows is read from it by a fitted function. All "
        "other weights are set: planted nodes do what the table says, all other heads look at the same places, and "
        "write, like all other mlps, where nothing that matters reads. Weights are stored in half precision. Made by",
        116,
    )
    return f"""---
library_name: transformers
pipeline_tag: visual-question-answering
license: mit
language: en
---

# {name}

A model whose circuit is known, since its weights were set by hand. It answers "Is this circle red or blue?" about the
rendered world of vlmtrace: with the color of the named thing if it is one of the options, and else with "neither".

{plan.tells}
`circuit.json` lists its nodes and edges.

```mermaid
{_drawn(plan)}
```

{_table(nodes)}

Edges. Those that differ under no corruption say where to look, or carry what is the same in both runs.

{_table(edges)}

{made}

    python -m vlmtrace.training.planted {name}

## Proof

On {len(pairs)} pairs of "rendered_states" that ask for a color (test split), as all of them are answered:

{_table(evaluated)}

The rest is measured on the {clear} of them in whose three runs the vision encoder is sure (all logits within
{CLEARLY:.0%} of a full answer's of what the circuit means). Interchange accuracy: a planted node gives what it gives in
another run (of the same pair with the other picture or the other question, or of another pair), and the answer is
the one that the circuit's meaning has with this variable changed. The largest error is that of a logit, as a share
of a full answer's.

{_table(accuracy.assign(largest_error=accuracy["largest_error"].round(3).astype(str)))}

Where a planted node gives 0:

{_table(gone)}
{joint}
{others}

## Limits

It knows this question and these drawings. Its attention is sharper, and its streams are larger, than those of trained
models: a method that finds its circuit has passed an easy test.
"""


def _drawn(plan: Plan) -> str:
    """The circuit for Mermaid, which draws it where cards are shown."""
    lines = ["graph LR"]
    for link in plan.links:
        label = link.input if not link.corruptions else f"{link.input}: {' and '.join(link.corruptions)}"
        arrow = "-->" if link.corruptions else "-.->"
        lines.append(f"  {_id(link.sender)} {arrow}|{label}| {_id(link.receiver)}")
    return "\n".join(lines)


def _id(name: str) -> str:
    return f"{name.replace(' ', '_')}[{name}]"


def _table(frame: pd.DataFrame) -> str:
    """A table in Markdown: shares in percent."""
    lines = [[str(column).replace("_", " ") for column in frame.columns], ["---"] * frame.shape[1]]
    for row in frame.itertuples(index=False):
        lines.append([f"{value:.1%}" if isinstance(value, float) else str(value) for value in row])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
