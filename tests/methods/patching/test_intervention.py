"""Several patches in one run: each as the sweep has it, all together as hooks by hand give it."""

import pytest
import torch

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.pair_runs import encode_pair, run_pairs
from vlmtrace.methods.patching.intervention import Patch, intervene, intervene_in, patched_logits
from vlmtrace.models import Site
from vlmtrace.models.hooks import attach_hooks


@pytest.fixture(scope="module", params=["blip", "llava"])
def model(request, model_store):
    return model_store.shared("random_blip" if request.param == "blip" else request.param)


@pytest.fixture(scope="module")
def pair(random_pairs):
    return random_pairs.iloc[0]


@pytest.mark.parametrize("corruption", ["image", "text"])
def test_one_patch_is_what_the_sweep_says(model, pair, corruption):
    block = model.head_block
    one = pair.to_frame().T.convert_dtypes().astype({"correct_first": bool})
    heads = vt.patch_heads(model, one, corruption, positions=[3])
    modules = vt.patch_modules(model, one, corruption, blocks=[block.name], positions=[3])
    for row in [*heads.iloc[:: max(1, len(heads) // 8)].itertuples(), *modules.iloc[::3].itertuples()]:
        chosen = (int(row.head),) if hasattr(row, "head") else None
        patch = Patch(block.name, row.module, row.layer, (row.position,), chosen)
        assert intervene(model, pair, [patch], corruption).patching_effect == pytest.approx(
            row.patching_effect, abs=1e-4
        )


def test_nothing_patched_is_the_corrupt_run_and_everything_the_clean_one(model, pair):
    nothing = intervene(model, pair, [])
    assert torch.allclose(nothing.logits["patched"], nothing.logits["corrupt"], atol=1e-5)
    assert nothing.patching_effect == pytest.approx(0, abs=1e-5)
    last = model.blocks[model.answer_block]
    everything = intervene(model, pair, [Patch(last.name, "residual", last.n_layers - 1)])
    assert everything.patching_effect == pytest.approx(1, abs=1e-4)
    assert everything.answer("patched") == everything.answer("clean")


def test_patches_together_are_nested_hooks(model, pair):
    block, frame = model.head_block, pair.to_frame().T
    module = block.head_modules[-1]
    patches = [
        Patch(block.name, module, 0, (2, 3), (1, 3)),
        Patch(block.name, "mlp", 1, (4,)),
        Patch(block.name, module, 0, None, (0,)),
    ]
    found = intervene(model, pair, patches).logits["patched"]

    clean = model.trace(run_inputs(model, frame, "clean"))
    first, second = Site(block.name, module, 0), Site(block.name, "mlp", 1)
    width = clean[first].shape[-1] // block.n_heads

    def heads(value):
        value = value.clone()
        for head, rows in ((1, [2, 3]), (3, [2, 3]), (0, list(range(value.shape[1])))):
            value[:, rows, head * width : (head + 1) * width] = clean[first][:, rows, head * width : (head + 1) * width]
        return value

    def whole(value):
        value = value.clone()
        value[:, 4] = clean[second][:, 4]
        return value

    with torch.no_grad(), attach_hooks([(model.hook_point(first), heads), (model.hook_point(second), whole)]):
        expected = model.answer_logits(run_inputs(model, frame, "image"))[0]
    assert torch.allclose(found, expected, atol=1e-5)
    backwards = intervene(model, pair, patches[::-1]).logits["patched"]
    assert torch.allclose(found, backwards, atol=1e-6), "the order must not matter"


def test_a_batch_of_interventions_is_each_alone(model, pair):
    block, frame = model.head_block, pair.to_frame().T
    runs = run_pairs(model, frame, [encode_pair(model, frame, 0, "image")])
    module = block.head_modules[-1]
    many = [[Patch(block.name, module, layer, None, (head,))] for layer in range(2) for head in range(3)]
    many += [[], [Patch("vision_encoder", "residual", 0, (1, 2))]]
    together = patched_logits(model, runs, many, batch_size=3)
    for patches, logits in zip(many, together, strict=True):
        assert torch.allclose(intervene_in(model, runs, patches).logits["patched"], logits, atol=1e-5)


def test_what_does_not_exist_is_said(model, pair):
    block = model.head_block
    for patch, message in (
        (Patch("nowhere", "mlp", 0), "Unknown block of .* 'nowhere'"),
        (Patch(block.name, "mlp", 9), "Layer 9 does not exist"),
        (Patch(block.name, "mlp", 0, None, (0,)), "mlp of .* has no heads"),
        (Patch(block.name, block.head_modules[0], 0, None, (7,)), "There is no head 7"),
        (Patch(block.name, "mlp", 0, (99,)), "There is no position 99"),
    ):
        with pytest.raises(VlmtraceError, match=message):
            intervene(model, pair, [patch])


def test_the_table_has_all_runs(model, pair):
    outcome = intervene(model, pair, [])
    table = outcome.table(4)
    assert list(table) == ["token_id", "token", "clean", "corrupt", "patched"] and len(table) >= 4
    for run in ("clean", "corrupt"):
        assert table[run].max() == pytest.approx(float(outcome.logits[run].softmax(-1).max()), abs=1e-6)
    assert "patching effect" in str(outcome)
