"""Small tables in the contract's columns with effects planted where a real model would have them, for figures."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

#: category -> prompt with the two options as {0} and {1}, options, their replacements
QUESTIONS = {
    "color": ("Is this circle {0} or {1}?", ("red", "blue"), ("green", "yellow")),
    "shape": ("Is this star {0} or {1}?", ("tiny", "huge"), ("tall", "wide")),
    "subject": ("Is the {0} or the {1} kicking the ball?", ("girl", "dog"), ("boy", "robot")),
}
GRID = 8
MODULES = ("residual", "mlp", "self_attention", "cross_attention")


def make_pairs(folder: Path, n: int = 8, task: str = "rendered_states") -> pd.DataFrame:
    """Pairs of 96 × 96 images with a disk as the object and a square as the distractor, and their masks."""
    rows = []
    for index in range(n):
        category = list(QUESTIONS)[index % len(QUESTIONS)]
        template, (correct, incorrect), replacements = QUESTIONS[category]
        correct_first = index // len(QUESTIONS) % 2 == 0
        turn = 1 if correct_first else -1
        row = {
            "sample_id": f"{category}-{index}",
            "task": task,
            "category": category,
            "clean_prompt": template.format(*(correct, incorrect)[::turn]),
            "corrupt_prompt": template.format(*replacements[::turn]),
            "correct_answer": correct,
            "incorrect_answer": incorrect,
            "correct_first": correct_first,
        }
        rows.append(row | draw_pair(folder, index))
    return pd.DataFrame(rows)


def draw_pair(folder: Path, index: int) -> dict[str, str]:
    """Write images and masks of one pair; returns their paths by column."""
    x = 8 + 7 * (index % 4)
    boxes = {"clean_object_mask": (x, 12, x + 40, 52), "clean_distractor_mask": (60 - x // 2, 60, 86 - x // 2, 86)}
    paths = {}
    for column, color in (("clean_image", "#cc3322"), ("corrupt_image", "#2255bb")):
        image = Image.new("RGB", (96, 96), "#d8d4c8")
        brush = ImageDraw.Draw(image)
        brush.ellipse(boxes["clean_object_mask"], fill=color, outline="black")
        brush.rectangle(boxes["clean_distractor_mask"], fill="#2255bb", outline="black")
        paths[column] = _save(image, folder / f"{index}-{column}.png")
    for column, box in boxes.items():
        mask = Image.new("L", (96, 96), 0)
        shape = ImageDraw.Draw(mask).ellipse if "object" in column else ImageDraw.Draw(mask).rectangle
        shape(box, fill=255)
        paths[column] = _save(mask, folder / f"{index}-{column}.png")
    return paths


def _save(image: Image.Image, path: Path) -> str:
    image.save(path)
    return str(path)


def tokens_of(pair: dict) -> list[tuple[str, str]]:
    """(token, token_role) of a prompt; "red" is split in two, as words of a real vocabulary are."""
    tokens = [("[CLS]", "[CLS]")]
    for word in pair["clean_prompt"].lower().replace("?", " ?").split():
        part = {pair["correct_answer"]: "correct", pair["incorrect_answer"]: "incorrect"}.get(word, word)
        tokens += [("re", part), ("##d", part)] if word == "red" else [(word, part)]
    return [*tokens, ("[SEP]", "[SEP]")]


def make_module_patching(pairs: pd.DataFrame, n_layers: int = 4, seed: int = 0) -> pd.DataFrame:
    """Effects that rise with the layer at the two options, and none elsewhere but noise."""
    generator = np.random.default_rng(seed)
    rows = []
    for pair in pairs.to_dict("records"):
        for corruption in ("image", "text"):
            for module, scale in zip(MODULES, (0.6, -0.15, 0.03, 0.5), strict=True):
                for position, (token, role) in enumerate(tokens_of(pair)):
                    for layer in range(n_layers):
                        planted = {"correct": 1.0, "incorrect": 0.6}.get(role, 0.0) * scale * (layer + 1) / n_layers
                        site = (pair["sample_id"], corruption, "text_encoder", module, layer)
                        rows.append((*site, position, token, role, planted + 0.02 * generator.normal()))
            if corruption == "image":
                rows += _vision_rows(pair, generator)
    columns = ["sample_id", "corruption", "block", "module", "layer", "position", "token", "token_role"]
    columns += ["patching_effect"]
    return pd.DataFrame(rows, columns=columns)


def _vision_rows(pair: dict, generator: np.random.Generator) -> list[tuple]:
    """Vision encoder: patches of the object restore the answer, less so in later layers."""
    mask = np.asarray(Image.open(pair["clean_object_mask"]).resize((GRID, GRID), Image.Resampling.BOX)) / 255
    rows = []
    for layer in range(3):
        for position in range(GRID * GRID + 1):
            inside = mask.flat[position - 1] if position else 0.0
            row, column = divmod(position - 1, GRID)
            token, role = ("[CLS]", "[CLS]") if position == 0 else (f"{row},{column}", "image")
            effect = 0.15 * inside * (3 - layer) / 3 + 0.01 * generator.normal()
            site = (pair["sample_id"], "image", "vision_encoder", "residual", layer)
            rows.append((*site, position, token, role, effect))
    return rows


def make_head_patching(pairs: pd.DataFrame, n_layers: int = 4, n_heads: int = 8, seed: int = 0) -> pd.DataFrame:
    """Cross-attention head 2.5 restores the answer at the options, head 3.1 works against it."""
    generator = np.random.default_rng(seed)
    rows = []
    for pair in pairs.to_dict("records"):
        for corruption in ("image", "text"):
            for module in ("self_attention", "cross_attention"):
                for position, (token, role) in enumerate(tokens_of(pair)):
                    for layer, head in np.ndindex(n_layers, n_heads):
                        strength = {(2, 5): 0.4, (3, 1): -0.2}.get((layer, head), 0.0)
                        at_options = role in ("correct", "incorrect") and module == "cross_attention"
                        effect = strength * at_options + 0.005 * generator.normal()
                        site = (pair["sample_id"], corruption, "text_encoder", module, layer, head)
                        rows.append((*site, position, token, role, effect))
    columns = ["sample_id", "corruption", "block", "module", "layer", "head", "position", "token", "token_role",
               "patching_effect"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def make_heads(n_layers: int = 4, n_heads: int = 8, seed: int = 0) -> pd.DataFrame:
    """Three tasks × two corruptions; cross-attention 2.5 is important everywhere, 3.1 under the corrupt image only."""
    generator = np.random.default_rng(seed)
    rows = []
    for task in ("rendered_states", "rendered_faces", "rendered_svo"):
        for corruption in ("image", "text"):
            for module in ("self_attention", "cross_attention"):
                for layer, head in np.ndindex(n_layers, n_heads):
                    strength = {(2, 5): 0.42, (3, 1): -0.21 if corruption == "image" else 0.0}.get((layer, head), 0.0)
                    effect = strength * (module == "cross_attention") + 0.008 * generator.normal()
                    rows.append((task, corruption, "text_encoder", module, layer, head, 40, effect, abs(effect) > 0.1,
                                 abs(effect) > 0.3))  # fmt: skip
    columns = ["task", "corruption", "block", "module", "layer", "head", "n", "mean_effect", "is_important",
               "is_important_2sd"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def make_faithfulness(n_pairs: int = 12, n_draws: int = 5, n_heads: int = 64, seed: int = 0) -> pd.DataFrame:
    """Ranked heads restore the answer by k = 8; random ones in proportion to k."""
    generator = np.random.default_rng(seed)
    rows = []
    for pair in range(n_pairs):
        for direction in ("sufficiency", "necessity"):
            for order, draw in [("ranked", 0), *(("random", draw) for draw in range(n_draws))]:
                for k in (0, 1, 2, 4, 8, 16, 32, n_heads):
                    share = min(1.0, k / 8) ** 0.5 if order == "ranked" else k / n_heads
                    noise = 0.1 * generator.normal() if 0 < k < n_heads else 0.0
                    effect = (share if direction == "sufficiency" else 1 - share) + noise
                    rows.append((f"pair-{pair}", "image", direction, order, draw, k, effect))
    return pd.DataFrame(rows, columns=["sample_id", "corruption", "direction", "order", "draw", "k", "patching_effect"])


def make_accuracy(seed: int = 0) -> pd.DataFrame:
    """Three tasks, every category, both orders, four measures."""
    generator = np.random.default_rng(seed)
    kinds = {
        "rendered_faces": ["angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised"],
        "rendered_states": ["color", "shape", "texture"],
        "rendered_svo": ["object", "subject", "verb"],
    }
    rows = []
    for task, categories in kinds.items():
        for category in categories:
            for first in (False, True):
                for measure in ("clean", "image_flipped", "text_changed", "both_sides"):
                    share = generator.uniform(0.85, 1.0)
                    rows.append((task, category, first, measure, share, 20, max(share - 0.15, 0), min(share + 0.03, 1)))
    columns = ["task", "category", "correct_first", "measure", "accuracy", "n", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=columns)


def make_functions(n_layers: int = 2, n_heads: int = 6) -> pd.DataFrame:
    """Head 1.0 looks at the object, 1.1 away from it, 1.2 at outliers; all others spread their attention evenly."""
    planted = {(1, 0): ("object detection", "object", 4.0), (1, 1): ("object suppression", "object", 0.2)}
    planted[1, 2] = ("outlier suppression", "outlier", 6.0)
    areas = {"object": 0.16, "distractor": 0.1, "background": 0.74, "outlier": 0.03, "off_image": np.nan}
    rows = []
    for layer, head in np.ndindex(n_layers, n_heads):
        function, target, strength = planted.get((layer, head), ("none", "", 1.0))
        for region, area in areas.items():
            ratio = strength if region == target else 1.0 if np.isfinite(area) else np.nan
            share = area * ratio if np.isfinite(area) else 0.1
            contrast = share - (area if np.isfinite(area) else 0.1)
            intervals = (share - 0.02, share + 0.02, ratio, ratio * 0.8, ratio * 1.2)
            rows.append(("text_encoder", "cross_attention", layer, head, region, 30, area, share, *intervals,
                         contrast, contrast - 0.03, contrast + 0.03, function))  # fmt: skip
    columns = ["block", "module", "layer", "head", "region", "n", "area", "share", "ci_low", "ci_high"]
    columns += ["ratio", "ratio_low", "ratio_high", "contrast", "contrast_low", "contrast_high", "function"]
    return pd.DataFrame(rows, columns=columns)


def make_selection() -> pd.DataFrame:
    """Counts that differ in every stage."""
    rows = []
    for index, category in enumerate(("color", "shape", "texture")):
        for first in (False, True):
            rows.append((category, first, 20, 18 - 2 * index, 15, min(15, 18 - 2 * index)))
    return pd.DataFrame(rows, columns=["category", "correct_first", "available", "eligible", "wanted", "got"])


def every_table(folder: Path) -> SimpleNamespace:
    """One small table of each kind, and attention of 3 pairs and 2 heads on 8 × 8 patches."""
    pairs = make_pairs(folder, n=12)
    attention = np.random.default_rng(0).dirichlet(np.full(65, 0.3), size=(3, 2))
    return SimpleNamespace(
        pairs=pairs,
        modules=make_module_patching(pairs),
        heads=make_heads(),
        faithfulness=make_faithfulness(),
        accuracy=make_accuracy(),
        functions=make_functions(),
        selection=make_selection(),
        attention=attention[..., 1:].reshape(3, 2, 8, 8),  # without the [CLS] patch
    )
