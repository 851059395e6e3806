"""What each method costs on the bundled models: CPU seconds on one core for one pair or question.

    OMP_NUM_THREADS=1 python docs/measure_costs.py --write

Prints the table that `docs/choosing.md` shows; with `--write` it takes the place of the one that stands there. Seconds
are those of this process alone, so that other programs on the same machine disturb them little; they depend on the
machine, their ratios hardly do.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sized
from functools import partial
from pathlib import Path

import vlmtrace as vt
from vlmtrace.methods.attention import head_attention
from vlmtrace.methods.circuits import faithfulness_table, subset_table
from vlmtrace.methods.explanation import explain
from vlmtrace.methods.relevancy import relevancy

N = 8

PAGE = Path(__file__).with_name("choosing.md")

#: The first line of the table, by which it is found in the page.
HEADER = "| call | tiny-blip, seconds | rows | tiny-llava, seconds | rows |"


def seconds_and_rows(call: Callable[[], object], n: int) -> tuple[float, int | None]:
    """CPU seconds and rows of the result, each for one of the n examples that the call works on."""
    started = time.process_time()
    result = call()
    spent = (time.process_time() - started) / n
    table = result[0] if isinstance(result, tuple) else result
    return spent, len(table) // n if isinstance(table, Sized) else None


def calls(model: vt.VLM, decoder_only: bool) -> dict[str, tuple[Callable[[], object], int]]:
    """What the table calls each method's call, the call, and on how many examples it works."""
    pairs = vt.load_pairs("rendered_states", n=N, seed=0, model=model)
    questions = vt.load_questions("rendered_open", n=N, seed=0)
    one = questions.iloc[0]
    vt.evaluate(model, pairs)  # the first call of a model pays for what is loaded on demand
    level = vt.choose_level(vt.noise_curve(model, questions))
    block, module = model.head_block, model.image_module
    ranking = [(module, layer, 0) for layer in range(block.n_layers)]
    layers = [[(module, layer, head) for head in range(block.n_heads)] for layer in range(block.n_layers)]
    whole: dict[str, Callable[[], object]] = {
        "`vt.evaluate`": partial(vt.evaluate, model, pairs),
        "`vt.patch_modules`": partial(vt.patch_modules, model, pairs),
        "`vt.patch_heads`": partial(vt.patch_heads, model, pairs),
        '`vt.patch_heads(…, positions=["correct"])`': partial(vt.patch_heads, model, pairs, positions=["correct"]),
        "`vt.patch_regions`": partial(vt.patch_regions, model, pairs),
        "`vt.patch_whole_heads`": partial(vt.patch_whole_heads, model, pairs),
        "`vt.patch_together` (each layer's heads)": partial(vt.patch_together, model, pairs, layers),
        "`vt.patch_head_sets` (each layer's heads)": partial(vt.patch_head_sets, model, pairs, layers),
        "`vt.ablate`": partial(vt.ablate, model, pairs),
        "`vt.attribute_modules`": partial(vt.attribute_modules, model, pairs),
        "`vt.attribute_heads`": partial(vt.attribute_heads, model, pairs),
        "`vt.attribute_heads(…, steps=8)`": partial(vt.attribute_heads, model, pairs, steps=8),
        "`vt.knock_out_attention`": partial(vt.knock_out_attention, model, pairs),
        "`vt.replace_image_tokens`": partial(vt.replace_image_tokens, model, pairs),
        "`faithfulness_table` (4 heads ranked)": partial(faithfulness_table, model, pairs, ranking),
        '`faithfulness_table(…, run="computed")` (4 heads ranked)': partial(
            faithfulness_table, model, pairs, ranking, run="computed"
        ),
        "`subset_table` (a circuit of 4 heads)": partial(subset_table, model, pairs, ranking),
        "`head_attention`": partial(head_attention, model, pairs),
        "`vt.causal_trace(…, draws=10)`": partial(vt.causal_trace, model, questions, level=level, draws=10),
    }
    found: dict[str, tuple[Callable[[], object], int]] = {name: (call, N) for name, call in whole.items()}
    found["`relevancy`"] = (partial(relevancy, model, one["image"], one["prompt"]), 1)
    found["`explain`"] = (partial(explain, model, one["image"], one["prompt"]), 1)
    if decoder_only:
        found["`vt.lens_contributions`"] = (partial(vt.lens_contributions, model, questions), N)
        found["`vt.score_maps`"] = (partial(vt.score_maps, model, questions), N)
    return found


def main() -> None:
    """Measure both bundled models, print one table, and put it into the page where that is asked for."""
    measured: dict[str, dict[str, tuple[float, int | None]]] = {}
    for name in ("tiny-blip", "tiny-llava"):
        model = vt.load_model(name)
        for method, (call, n) in calls(model, decoder_only=name == "tiny-llava").items():
            measured.setdefault(method, {})[name] = seconds_and_rows(call, n)
    table = "\n".join([HEADER, "| --- | --- | --- | --- | --- |", *rows(measured)])
    print(table)
    if "--write" in sys.argv[1:]:
        PAGE.write_text(with_table(PAGE.read_text(), table))


def rows(measured: dict[str, dict[str, tuple[float, int | None]]]) -> list[str]:
    """The table's rows, from seconds and rows by call and model."""
    lines = []
    for method, by_model in measured.items():
        cells = [cell for name in ("tiny-blip", "tiny-llava") for cell in by_model.get(name, (None, None))]
        shown = ["–" if cell is None else f"{cell:.2g}" if isinstance(cell, float) else f"{cell:,}" for cell in cells]
        lines.append(f"| {method} | " + " | ".join(shown) + " |")
    return lines


def with_table(page: str, table: str) -> str:
    """The page with the table in place of the one that begins with the same line."""
    found = re.compile(rf"^{re.escape(HEADER)}$(\n\|.*)*", re.MULTILINE)
    assert len(found.findall(page)) == 1, "the page has one table of costs"
    return found.sub(lambda _: table, page)


if __name__ == "__main__":
    main()
