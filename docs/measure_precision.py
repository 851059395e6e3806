"""What half precision and quantization change in effects: five families with random weights, and the trained models.

    OMP_NUM_THREADS=1 python docs/measure_precision.py --write

Prints the table that `docs/large-models.md` shows; with `--write` it takes the place of the one that stands there. The
same pairs and sites are patched in float32 and in another number type; the correlation is over all sites of all pairs.
Models and pairs of the five families are those of the tests.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

import vlmtrace as vt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fixtures.model_store import write

FAMILIES = ("llava", "qwen3_vl", "gemma3", "paligemma2", "internvl")

TRAINED = ("tiny-blip", "tiny-llava")

N = 4

PAGE = Path(__file__).with_name("large-models.md")

#: What each row compares with float32.
WAYS: dict[str, dict[str, str]] = {
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
    "bitsandbytes-8bit": {"quantization": "bitsandbytes-8bit"},
    "bitsandbytes-4bit": {"quantization": "bitsandbytes-4bit"},
    "torchao-int8": {"quantization": "torchao-int8"},
}

HEADER = (
    "| model | number type | modules: correlation | largest difference | largest effect "
    "| heads: correlation | largest difference | largest effect |"
)


def noise_pairs(folder: Path) -> pd.DataFrame:
    """Pairs of images of noise, whose words the tests' tokenizers know."""
    generator = np.random.default_rng(0)
    rows = []
    for i in range(N):
        images = {}
        for side in ("clean", "corrupt"):
            path = folder / f"{i}-{side}.png"
            Image.fromarray(generator.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(path)
            images[f"{side}_image"] = str(path)
        rows.append(
            {
                "sample_id": f"p{i}",
                "task": "random",
                "category": "color",
                **images,
                "clean_prompt": "is this circle red or blue?",
                "corrupt_prompt": "is this circle green or yellow?",
                "correct_answer": "red",
                "incorrect_answer": "blue",
                "correct_first": True,
            }
        )
    return pd.DataFrame(rows)


def effects(model: vt.VLM, pairs: pd.DataFrame) -> list[np.ndarray]:
    """Logits by which patches change the difference: modules of the block that reads the question, and its heads."""
    block = [model.head_block.name]
    tables = (vt.patch_modules(model, pairs, blocks=block), vt.patch_heads(model, pairs))
    return [table["logit_diff"].to_numpy(float) for table in tables]


def rows_of(name: str, source: str | Path, pairs: pd.DataFrame) -> list[str]:
    """The rows of one model."""
    model = vt.load_model(source)
    whole = effects(model, pairs)
    found = []
    for way, options in WAYS.items():
        if "quantization" in options and not model.has_visual_tokens:
            continue  # BLIP is patched by hooks then, one pass for each patch
        other = effects(vt.load_model(source, **options), pairs)
        cells = []
        for one, two in zip(whole, other, strict=True):
            correlation = np.corrcoef(one, two)[0, 1]
            cells += [f"{correlation:.4f}", f"{np.abs(one - two).max():.2g}", f"{np.abs(one).max():.2g}"]
        found.append(f"| {name} | {way} | {' | '.join(cells)} |")
        print(found[-1], flush=True)
    return found


def main() -> None:
    """Print the table, and write it into the page."""
    torch.manual_seed(0)
    rows = [HEADER, "|" + " --- |" * 8]
    print("\n".join(rows))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pairs = noise_pairs(folder)
        for family in FAMILIES:
            write(family, folder / family)
            rows += rows_of(f"{family}, random weights", folder / family, pairs)
        trained = vt.load_pairs("rendered_states", n=N, seed=0)
        for name in TRAINED:
            rows += rows_of(name, name, trained)
    if "--write" in sys.argv:
        text = PAGE.read_text(encoding="utf-8")
        table = re.compile(re.escape(HEADER) + r"\n(\|.*\n)+")
        assert table.search(text), f"{PAGE} has no table that begins as this one"
        PAGE.write_text(table.sub(lambda _: "\n".join(rows) + "\n", text), encoding="utf-8")


if __name__ == "__main__":
    main()
