"""Patches that act together, and the heads of every attention block, against single hooked forward passes."""

import pytest
import torch

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.inputs.pair_runs import encode_pair, read_again, run_pairs
from vlmtrace.inputs.token_roles import token_table
from vlmtrace.methods.patching import Patch, attention_heads, intervene
from vlmtrace.models import Site
from vlmtrace.models.hooks import attach_hooks

FAMILIES = ["random_blip", "llava", "llava_next", "qwen2_5_vl", "internvl"]


@pytest.fixture(scope="module", params=["random_blip", "llava"])
def model(request, model_store):
    return model_store.shared(request.param)


def hooked_effect(model, pair, corruption, parts, direction="denoising"):
    """Effect of (site, positions or None, head or None) patched together: one forward pass, hooks set by hand."""
    one = pair.to_frame().T.convert_dtypes().astype({"correct_first": bool})
    runs = run_pairs(model, one, [encode_pair(model, one, 0, corruption)], corruption)
    origin = runs.clean_inputs if direction == "denoising" else runs.inputs
    points = []
    for site, positions, head in parts:
        kept = []
        with torch.no_grad(), attach_hooks([(model.hook_point(site), lambda value: kept.append(value.clone()))]):  # noqa: B023
            model.answer_logits(origin)
        (source,) = kept

        def patch(value, source=source, positions=positions, head=head, block=model.blocks[site.block]):
            value = value.clone()
            # Behind the prompt an answer may be given, which is never patched.
            rows = slice(source.shape[-2]) if positions is None else positions
            width = value.shape[-1] // block.n_heads
            columns = slice(None) if head is None else slice(head * width, (head + 1) * width)
            value[..., rows, columns] = source[..., rows, columns]
            return value

        points.append((model.hook_point(site), patch))
    with torch.no_grad(), attach_hooks(points):
        run = "corrupt" if direction == "denoising" else "clean"
        ld = float(read_again(model, runs, run).logit_diff)
    clean, corrupt = float(runs.clean_readout.logit_diff), float(runs.corrupt_readout.logit_diff)
    return (ld - corrupt) / (clean - corrupt) if direction == "denoising" else (clean - ld) / (clean - corrupt)


@pytest.mark.medium
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_whole_heads_of_every_block_are_hooked_passes(model_store, random_pairs, family, direction):
    model = model_store.shared(family)
    # The second pair's answers have several tokens in BLIP's vocabulary.
    for index in (0, 1) if family == "random_blip" else (0,):
        effects = vt.patch_whole_heads(model, random_pairs.iloc[[index]], direction=direction)
        assert len(effects) == len(attention_heads(model)) and set(effects["direction"]) == {direction}
        assert "vision_encoder" in set(effects["block"]), f"{family}: the heads of the vision encoder are missing"
        for _, rows in effects.groupby("block"):
            assert rows["patching_effect"].abs().max() > 1e-3, "no head of this block does anything"
            for row in rows.iloc[:: max(1, len(rows) // 4)].itertuples():
                part = (Site(row.block, row.module, row.layer), None, row.head)
                expected = hooked_effect(model, random_pairs.iloc[index], "image", [part], direction)
                assert row.patching_effect == pytest.approx(expected, abs=1e-4), f"{family}, {direction}: {row}"


def test_blip_has_its_decoder_and_its_vision_encoder(random_blip):
    blocks = {patch.block for patch in attention_heads(random_blip)}
    assert blocks == {"vision_encoder", "text_encoder", "text_decoder"}
    assert random_blip.head_block.name == "text_encoder", "patch_heads must stay with the block that reads the question"
    assert not [site for site in random_blip.sites() if site == Site("vision_encoder", "self_attention", 0)], (
        "a hooked module must not make every sweep dearer"
    )


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("corruption", ["image", "text"])
def test_a_set_is_one_hooked_pass(model, random_pairs, corruption, direction):
    pair, block = random_pairs.iloc[0], model.head_block
    module = block.head_modules[-1]
    sets = [
        [],
        [(module, 0, 1), (module, 2, 3)],
        [Patch(block.name, module, 1, (2, 4), (0,)), Patch(block.name, "mlp", 0, (3,))],
        [Patch("vision_encoder", "self_attention", 0, None, (1,)), (module, 1, 2)],
    ]
    parts = [
        [],
        [(Site(block.name, module, 0), None, 1), (Site(block.name, module, 2), None, 3)],
        [(Site(block.name, module, 1), [2, 4], 0), (Site(block.name, "mlp", 0), [3], None)],
        [(Site("vision_encoder", "self_attention", 0), None, 1), (Site(block.name, module, 1), None, 2)],
    ]
    found = vt.patch_together(model, random_pairs.iloc[[0]], sets, corruption, direction, batch_size=3)
    expected = [hooked_effect(model, pair, corruption, part, direction) for part in parts]
    assert found["set"].tolist() == [0, 1, 2, 3]
    assert found["patching_effect"].tolist() == pytest.approx(expected, abs=1e-4)


def test_a_name_is_the_positions_that_have_it(model, random_pairs):
    one, block = random_pairs.iloc[[0]].reset_index(drop=True), model.head_block
    inputs = encode_pair(model, one, 0, "image")[0]
    roles = token_table(model, one.iloc[0].to_dict(), block.name, inputs)["token_role"]
    indices = tuple(int(i) for i in roles.index[roles.isin(["correct", "incorrect"])])
    assert indices
    module = block.head_modules[-1]
    named, numbered = (Patch(block.name, module, 1, where, (0, 2)) for where in (("options",), indices))
    effects = vt.patch_together(model, one, [[named], [numbered]])["patching_effect"]
    assert effects[0] == effects[1] != 0
    with pytest.raises(VlmtraceError, match="position of"):
        vt.patch_together(model, one, [[named._replace(positions=("nowhere",))]])


def test_all_heads_at_all_positions_add_up_to_the_module(model, random_pairs):
    block = model.head_block
    module = block.head_modules[-1]
    sets = [[(module, 1, head) for head in range(block.n_heads)], [Patch(block.name, module, 1)]]
    effects = vt.patch_together(model, random_pairs.iloc[[0]], sets)["patching_effect"]
    assert effects[0] == pytest.approx(effects[1], abs=1e-5)


def test_wrong_names_are_said(model, random_pairs):
    one = random_pairs.iloc[[0]]
    with pytest.raises(VlmtraceError, match="direction"):
        vt.patch_together(model, one, [[]], direction="up")
    named = Patch(model.head_block.name, "mlp", 0, ("correct",))
    with pytest.raises(VlmtraceError, match="names its positions"):
        intervene(model, random_pairs.iloc[0], [named])
    with pytest.raises(VlmtraceError, match="block with heads"):
        vt.patch_whole_heads(model, one, blocks=["nowhere"])
    with pytest.raises(VlmtraceError, match="at least one block"):
        vt.patch_whole_heads(model, one, blocks=[])
    with pytest.raises(VlmtraceError, match="sets must be a list of at least 1 entry"):
        vt.patch_together(model, one, [])
    with pytest.raises(VlmtraceError, match="has no heads"):
        vt.patch_together(model, one, [[Patch(model.head_block.name, "mlp", 0, None, (0,))]])
