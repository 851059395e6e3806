"""BLIP's sweeps give what hooks give however patches and pairs share chunks, and where one row of the image is new."""

import pytest
import torch

from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.models import Patches, Readout
from vlmtrace.models.sweep import blip, blip_layers, blip_vision, reference
from vlmtrace.models.sweep.layer_sweep import attend, attend_shared


@pytest.fixture(scope="module")
def runs(random_blip, random_pairs):
    """Two pairs of equal question length: inputs of the corrupt runs, both traces, and the answers' tokens."""
    pairs = random_pairs[random_pairs["clean_prompt"] == random_pairs["clean_prompt"].iloc[0]].iloc[:2]
    assert len(pairs) == 2
    clean, inputs = (run_inputs(random_blip, pairs, run) for run in ("clean", "image"))
    one = random_blip.answer_ids(pairs["correct_answer"].iloc[:1], pairs["incorrect_answer"].iloc[:1])
    return random_blip.trace(clean), random_blip.trace(inputs), inputs, one.expand(2, -1)


def every_layer(model, block, module, n_pairs):
    """Two positions of every layer, which differ between the pairs, in an order that is not that of the layers."""
    layers = [*reversed(range(model.blocks[block].n_layers))] * 2
    first = torch.tensor([0] * (len(layers) // 2) + [2] * (len(layers) // 2))
    positions = torch.stack([first + pair for pair in range(n_pairs)])
    return Patches(block, [module] * len(layers), layers, [None] * len(layers), positions)


def by_hooks(model, runs, patches):
    clean, _, inputs, ids = runs
    found = []
    for pair in range(len(ids)):
        one = slice(pair, pair + 1)
        mine = {name: value[one] for name, value in inputs.items()}
        found.append(reference.sweep(model, clean.rows(one), mine, patches.of_pair(pair), ids[one]))
    return Readout.cat(found, dim=0)


@pytest.mark.medium
@pytest.mark.parametrize("block, module", [("vision_encoder", "residual"), ("text_encoder", "cross_attention")])
def test_chunks_of_any_size_give_what_hooks_give(random_blip, runs, monkeypatch, block, module):
    clean, corrupt, inputs, ids = runs
    patches = every_layer(random_blip, block, module, len(ids))
    expected = by_hooks(random_blip, runs, patches)
    assert (expected.logit_diff - expected.logit_diff[:, :1]).abs().max() > 1e-3, "all patches do the same"
    for cache, memory in ((2**28, 2**28), (2**28, 1), (1, 2**28)):
        monkeypatch.setattr(blip, "CACHE", cache)
        found = random_blip.sweep(clean, corrupt, inputs, patches, ids, memory)
        torch.testing.assert_close(found.correct, expected.correct, atol=1e-5, rtol=1e-6)
        torch.testing.assert_close(found.log_normalizer, expected.log_normalizer, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("cache, together", [(1, 1), (2**40, 2)])
def test_pairs_share_a_chunk_that_fits_the_cache(random_blip, runs, monkeypatch, cache, together):
    clean, corrupt, inputs, ids = runs
    sizes = []
    read = blip.read_answer

    def noted(model, states, *rest):
        sizes.append(states.shape)
        return read(model, states, *rest)

    monkeypatch.setattr(blip, "read_answer", noted)
    monkeypatch.setattr(blip, "CACHE", cache)
    patches = every_layer(random_blip, "text_encoder", "mlp", len(ids))
    random_blip.sweep(clean, corrupt, inputs, patches, ids, 2**28)
    assert {len_pairs for len_pairs, *_ in sizes} == {together}
    assert sum(len_pairs * states for len_pairs, states, *_ in sizes) == 2 * len(patches), "patches were left out"


def test_an_image_token_of_the_last_layer_projects_one_row(random_blip, runs, monkeypatch):
    """The image's other rows are those of the pair: projecting them again for each state would be most of the work."""
    clean, corrupt, inputs, ids = runs
    last = random_blip.blocks["vision_encoder"].n_layers - 1
    positions = torch.arange(corrupt.layer_inputs["vision_encoder"].shape[1]).expand(2, -1)
    n = positions.shape[1]
    patches = Patches("vision_encoder", ["residual"] * n, [last] * n, [None] * n, positions)
    projected = []
    linear = blip_vision.linear

    def noted(module, rows):
        projected.append(rows.shape)
        return linear(module, rows)

    for module in (blip_vision, blip_layers):
        monkeypatch.setattr(module, "linear", noted)
    found = random_blip.sweep(clean, corrupt, inputs, patches, ids, 2**28)
    assert projected and max(shape[:-1].numel() for shape in projected) < 2 * n * n, (
        "every state's whole image is projected"
    )
    sites = [0, n // 2, n - 1]
    expected = by_hooks(random_blip, runs, patches.subset(sites))
    torch.testing.assert_close(found.correct[:, sites], expected.correct, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("size", [16, 48])
def test_attention_to_shared_keys_is_attention(size):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, size) for n in (70, 30, 30))
    with torch.no_grad():
        torch.testing.assert_close(attend_shared(query, key, value), attend(query, key, value), atol=1e-6, rtol=1e-5)
