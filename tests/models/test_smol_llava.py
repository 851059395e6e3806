"""smol-llava where it lies (make smol-llava): it loads, its sweeps are exact in every layer, and it answers pairs."""

import numpy as np
import pytest
import torch

import vlmtrace as vt
from vlmtrace.core.paths import MODELS
from vlmtrace.models.sweep import reference
from vlmtrace.models.types import Patches
from vlmtrace.training.smol.recipe import BARS, NAME

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (MODELS / NAME / "config.json").is_file(), reason="data/models/smol-llava is not here: run make smol-llava"
    ),
]


@pytest.fixture(scope="module")
def model():
    return vt.load_model(NAME)


@pytest.fixture(scope="module")
def pair():
    return vt.load_pairs("rendered_states", n=1, seed=11).iloc[0]


def _sites(block, clean, corrupt, generator):
    """A site of every module in every layer, at a drawn head and a drawn position at which the runs differ."""
    modules, layers, heads, positions = [], [], [], []
    for layer in range(block.n_layers):
        for module in block.modules:
            if block.has(module, layer):
                differs = (clean[block.name, module, layer] != corrupt[block.name, module, layer]).any(-1)[0]
                modules.append(module)
                layers.append(layer)
                heads.append(int(generator.integers(block.heads_at(layer))) if module in block.head_modules else None)
                positions.append(int(generator.choice(differs.nonzero()[:, 0].tolist())))
    return Patches(block.name, modules, layers, heads, torch.tensor(positions)[None])


def test_sweeps_equal_hooks_in_every_layer(model, pair):
    text = model.prompt_text(pair.clean_prompt)
    clean_inputs, inputs = (model.encode([image], [text]) for image in (pair.clean_image, pair.corrupt_image))
    clean, corrupt = model.trace(clean_inputs), model.trace(inputs)
    answer_ids = clean.logits.topk(2).indices
    generator = np.random.default_rng(0)
    moved = []
    for block in model.blocks.values():
        patches = _sites(block, clean, corrupt, generator)
        fast = model.sweep(clean, corrupt, inputs, patches, answer_ids, memory=2**28)
        slow = reference.sweep(model, clean, inputs, patches, answer_ids)
        for name in ("correct", "incorrect"):
            worst = (getattr(fast, name) - getattr(slow, name)).abs().max()
            assert worst <= 1e-4, f"{block.name}: the sweep is {worst:.2g} from hooked forward passes"
        unpatched = corrupt.logits.gather(1, answer_ids[:, :1])
        moved += (slow.correct - unpatched).abs().flatten().tolist()
    assert len(moved) >= 90 and np.median(moved) > 1e-3, "most patches change nothing, so that nothing is compared"


def test_it_is_the_language_model_that_it_says(model):
    block = model.blocks["language_model"]
    assert (block.n_layers, block.n_heads) == (30, 9)
    embedding = model.hf.get_input_embeddings().weight
    assert embedding.shape == (49153, 576)
    assert embedding is model.hf.lm_head.weight, "its embeddings are tied"


def test_it_answers_pairs_on_both_sides(model):
    right, both = [], []
    for task in ("rendered_states", "rendered_svo"):
        answered = vt.evaluate(model, vt.load_pairs(task, n=12, seed=12), corruptions=["image"])
        assert len(answered) == 12
        right += [*answered["is_correct"], *answered["image_is_flipped"]]
        both += list(answered["is_correct"] & answered["image_is_flipped"])
    # A model exactly at the bars falls below these once in hundreds of draws of so few pairs.
    assert np.mean(right) >= BARS[0] - 0.12, f"{np.mean(right):.0%} of questions are answered right"
    assert np.mean(both) >= BARS[1] - 0.2, f"{np.mean(both):.0%} of pairs are right on both sides"


def test_it_is_offered(model):
    assert NAME in vt.bundled_models()
    card = (MODELS / NAME / "README.md").read_text()
    for said in ("SmolLM2-135M-Instruct", "Apache License 2.0", "perplexity", "| texture |"):
        assert said in card, f"the card does not say {said}"
    assert "Apache License" in (MODELS / NAME / "LICENSE-SmolLM2").read_text()
