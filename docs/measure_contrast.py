"""What the contrast decides under text corruption: effects of restoring one option, the other, and both at once.

Run it from the repository: `python docs/measure_contrast.py`. It takes about a minute.
"""

from __future__ import annotations

import argparse

import pandas as pd

import vlmtrace as vt

REGIONS = ["correct", "incorrect", "options"]


def effects(model: vt.VLM, task: str, n: int, contrast: str) -> pd.DataFrame:
    """Patching effects of layer 0's residual stream at the option tokens, under text corruption: pair × region."""
    selected = vt.select_samples(vt.evaluate(model, vt.load_pairs(task, n=n)))
    block = model.head_block.name
    options = {"modules": ["residual"], "regions": REGIONS, "block": block, "contrast": contrast}
    table = vt.patch_regions(model, selected, "text", **options)
    return table[table["layer"] == 0].pivot(index="sample_id", columns="token_role", values="patching_effect")


def main() -> None:
    """Print the table of the page on activation patching."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny-blip")
    parser.add_argument("-n", type=int, default=60, help="pairs of each task, before selection")
    given = parser.parse_args()
    model = vt.load_model(given.model)
    print("| task | against | pairs | correct option | incorrect option | both | effect of correct above 1.05 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for task in ("rendered_states", "rendered_faces", "rendered_svo"):
        for contrast in ("options", "answer"):
            found = effects(model, task, given.n, contrast)
            means = " | ".join(f"{found[region].mean():.2f}" for region in REGIONS)
            above = (found["correct"] > 1.05).mean()
            print(f"| `{task}` | `{contrast}` | {len(found)} | {means} | {above:.0%} |")


if __name__ == "__main__":
    main()
