"""What each method costs on the bundled models: CPU seconds on one core for one pair or question.

    OMP_NUM_THREADS=1 python docs/measure_costs.py

Prints the table that `docs/choosing.md` shows. Seconds are those of this process alone, so that other programs on the
same machine disturb them little; they depend on the machine, their ratios hardly do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sized
from functools import partial

import vlmtrace as vt
from vlmtrace.methods.attention import head_attention
from vlmtrace.methods.circuits import faithfulness_table
from vlmtrace.methods.explanation import explain
from vlmtrace.methods.relevancy import relevancy

N = 8


def seconds_and_rows(call: Callable[[], object], n: int) -> tuple[float, int | None]:
    """CPU seconds and rows of the result, each for one of the n examples that the call works on."""
    started = time.process_time()
    result = call()
    spent = (time.process_time() - started) / n
    table = result[0] if isinstance(result, tuple) else result
    return spent, len(table) // n if isinstance(table, Sized) else None


def calls(model: vt.VLM, decoder_only: bool) -> dict[str, tuple[Callable[[], object], int]]:
    """Each method's name, a call of it, and on how many examples the call works."""
    pairs = vt.load_pairs("rendered_states", n=N, seed=0, model=model)
    questions = vt.load_questions("rendered_open", n=N, seed=0)
    one = questions.iloc[0]
    vt.evaluate(model, pairs)  # the first call of a model pays for what is loaded on demand
    level = vt.choose_level(vt.noise_curve(model, questions))
    ranking = [(model.image_module, layer, 0) for layer in range(model.head_block.n_layers)]
    found: dict[str, tuple[Callable[[], object], int]] = {
        "vt.evaluate": (partial(vt.evaluate, model, pairs), N),
        "vt.patch_modules": (partial(vt.patch_modules, model, pairs), N),
        "vt.patch_heads": (partial(vt.patch_heads, model, pairs), N),
        'vt.patch_heads(…, positions=["correct"])': (partial(vt.patch_heads, model, pairs, positions=["correct"]), N),
        "vt.patch_regions": (partial(vt.patch_regions, model, pairs), N),
        "vt.attribute_modules": (partial(vt.attribute_modules, model, pairs), N),
        "vt.attribute_heads": (partial(vt.attribute_heads, model, pairs), N),
        "vt.attribute_heads(…, steps=8)": (partial(vt.attribute_heads, model, pairs, steps=8), N),
        "vt.knock_out_attention": (partial(vt.knock_out_attention, model, pairs), N),
        "vt.replace_image_tokens": (partial(vt.replace_image_tokens, model, pairs), N),
        "faithfulness_table": (partial(faithfulness_table, model, pairs, ranking), N),
        "head_attention": (partial(head_attention, model, pairs), N),
        "vt.causal_trace(…, draws=10)": (
            partial(vt.causal_trace, model, questions, level=level, draws=10),
            N,
        ),
        "relevancy": (partial(relevancy, model, one["image"], one["prompt"]), 1),
        "explain": (partial(explain, model, one["image"], one["prompt"]), 1),
    }
    if decoder_only:
        found["vt.lens_contributions"] = (partial(vt.lens_contributions, model, questions), N)
        found["vt.score_maps"] = (partial(vt.score_maps, model, questions), N)
    return found


def main() -> None:
    """Measure both bundled models and print one table."""
    measured: dict[str, dict[str, tuple[float, int | None]]] = {}
    for name in ("tiny-blip", "tiny-llava"):
        model = vt.load_model(name)
        for method, (call, n) in calls(model, decoder_only=name == "tiny-llava").items():
            measured.setdefault(method, {})[name] = seconds_and_rows(call, n)
    print("| call | tiny-blip, seconds | rows | tiny-llava, seconds | rows |")
    print("| --- | --- | --- | --- | --- |")
    for method, by_model in measured.items():
        cells = [cell for name in ("tiny-blip", "tiny-llava") for cell in by_model.get(name, (None, None))]
        shown = ["–" if cell is None else f"{cell:.2g}" if isinstance(cell, float) else f"{cell:,}" for cell in cells]
        print(f"| `{method}` | " + " | ".join(shown) + " |")


if __name__ == "__main__":
    main()
