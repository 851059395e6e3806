"""Every supported family, loaded by `load_model`: sweeps equal hooked forward passes, positions are where they say.

The models are tiny and random, of the real classes, and written by `save_pretrained` together with their processors.
"""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.families import TIERED
from PIL import Image

import vlmtrace as vt
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.token_roles import token_table
from vlmtrace.models import Patches, Readout, Site
from vlmtrace.models.hooks import attach_hooks
from vlmtrace.models.sweep import reference

LANGUAGE = "language_model"

#: Effects below this are too small, against what may differ, to prove anything.
VACUOUS = 2e-3

#: So many positions of a sequence are all tried; of longer ones as many, evenly spaced.
TRIED = 60


@pytest.fixture(scope="session", params=TIERED)
def family(request, model_store):
    return request.param, model_store.shared(request.param)


@pytest.fixture(scope="session")
def model(family):
    return family[1]


def run(model, pairs, row, corruption):
    """Clean and corrupt traces of one pair, its corrupt inputs, its answers' ids and its token table."""
    pair = pairs.iloc[[row]]
    clean, inputs = (run_inputs(model, pair, side) for side in ("clean", corruption))
    ids = model.answer_ids(pair["correct_answer"], pair["incorrect_answer"])
    return model.trace(clean), model.trace(inputs), inputs, ids, token_table(model, pair.iloc[0], LANGUAGE, clean)


def vision_block(model):
    """The vision encoder, where the family has one whose positions are patches."""
    if not model.family.vision_types:
        pytest.skip(f"{model.family.name} offers no vision encoder")
    return model.blocks["vision_encoder"]


def tried(n_positions):
    """All positions of a short sequence; of a long one some, with the first and the last."""
    return sorted(set(np.linspace(0, n_positions - 1, min(n_positions, TRIED)).round().astype(int).tolist()))


def first_position(table, role):
    return int(table.loc[table["token_role"] == role, "position"].iloc[0])


def patches(block, chosen):
    """Of (module, layer, head, position)."""
    modules, layers, heads, positions = (list(column) for column in zip(*chosen, strict=True))
    return Patches(block, modules, layers, heads, torch.tensor([positions]))


def assert_same(model, clean, corrupt, inputs, ids, chosen, record):
    fast = model.sweep(clean, corrupt, inputs, chosen, ids, memory=2**24)
    slow = reference.sweep(model, clean, inputs, chosen, ids)
    names = ("correct", "incorrect", "log_normalizer")
    worst = max((getattr(fast, name) - getattr(slow, name)).abs().max().item() for name in names)
    record("largest difference", worst)
    assert worst <= 1e-4, f"{chosen.block}: logits are off by {worst:.2g}"
    effects = (slow.logit_diff - Readout.of(corrupt.logits, ids).logit_diff[:, None]).abs()
    assert effects.max() > VACUOUS, "the patches of this test change nothing: it proves nothing"


@pytest.mark.parametrize("corruption", ["image", "text"])
def test_language_model_sweep_equals_reference(model, random_pairs, corruption, record_property):
    clean, corrupt, inputs, ids, table = run(model, random_pairs, 1, corruption)
    block = model.blocks[LANGUAGE]
    image = first_position(table, "image") + 2 if "image" in set(table["token_role"]) else 3
    positions = (image, first_position(table, "correct"), len(table) - 1)
    modules = [
        (module, layer, None, at) for module in block.modules for layer in block.layers_with(module) for at in positions
    ]
    ends = [(layer, head) for layer in block.layers_with("self_attention") for head in {0, block.heads_at(layer) - 1}]
    heads = [("self_attention", layer, head, at) for layer, head in ends for at in positions[:2]]
    for chosen in (modules, heads):
        assert_same(model, clean, corrupt, inputs, ids, patches(LANGUAGE, chosen), record_property)


def test_vision_encoder_sweep_equals_reference(model, random_pairs, record_property):
    block = vision_block(model)
    clean, corrupt, inputs, ids, _ = run(model, random_pairs, 0, "image")
    last = clean["vision_encoder", "residual", 0].shape[1] - 1
    chosen = [("residual", layer, None, at) for layer in range(block.n_layers) for at in (1, last // 2, last)]
    assert_same(model, clean, corrupt, inputs, ids, patches("vision_encoder", chosen), record_property)


@pytest.mark.slow
@pytest.mark.parametrize("corruption", ["image", "text"])
def test_sweeps_equal_the_reference_at_every_site(model, random_pairs, corruption, record_property):
    """Every layer, module and head, at every position of a sequence that is short (`TRIED`)."""
    clean, corrupt, inputs, ids, _ = run(model, random_pairs, 1, corruption)
    # The prompt reaches no vision encoder, see test_image_sites_are_exactly_zero_under_text_corruption.
    blocks = [block for block in model.blocks.values() if corruption == "image" or block.name == LANGUAGE]
    for block in blocks:
        where = list(product(range(block.n_layers), tried(clean[block.name, "residual", 0].shape[1])))
        modules = [
            (module, layer, None, place)
            for module in block.modules
            for layer, place in where
            if block.has(module, layer)
        ]
        heads = [
            (module, layer, head, place)
            for module in block.head_modules
            for (layer, place), head in product(where, range(block.n_heads))
            if head < block.heads_at(layer)
        ]
        for chosen in filter(None, (modules, heads)):
            assert_same(model, clean, corrupt, inputs, ids, patches(block.name, chosen), record_property)


@pytest.mark.medium
def test_pairs_of_unlike_length_together_equal_each_alone(model, random_pairs):
    pairs = random_pairs.iloc[[0, 1, 4]]
    together = vt.patch_heads(model, pairs, positions=["correct", "or"])
    alone = pd.concat(
        [vt.patch_heads(model, pairs.iloc[[i]], positions=["correct", "or"]) for i in range(3)], ignore_index=True
    )
    keys = ["sample_id", "layer", "head", "position", "token_role"]
    assert together[keys].equals(alone[keys]) and set(together["token_role"]) == {"correct", "or"}
    np.testing.assert_allclose(together["logit_diff"], alone["logit_diff"], atol=1e-4)
    assert together["logit_diff"].abs().max() > VACUOUS


@pytest.mark.medium
def test_two_pairs_in_one_batch_equal_each_alone(model, random_pairs):
    """Two images in one forward pass, one in each prompt."""
    vision_block(model)
    pairs = random_pairs.iloc[[0, 4]]
    # The last patch: sliding windows can keep the first ones from ever reaching the answer.
    tokens = model.tokens("vision_encoder", "", run_inputs(model, pairs.iloc[[0]], "clean"))
    last = max(i for i, token in enumerate(tokens) if token.role == "image")
    options = dict(blocks=["vision_encoder"], positions=[last])
    together = vt.patch_modules(model, pairs, **options)
    alone = pd.concat([vt.patch_modules(model, pairs.iloc[[i]], **options) for i in range(2)], ignore_index=True)
    np.testing.assert_allclose(together["logit_diff"], alone["logit_diff"], atol=1e-4)
    assert together["logit_diff"].abs().max() > 1e-3


def test_identities(model, random_pairs):
    """What must hold without any reference."""
    clean, corrupt, inputs, ids, table = run(model, random_pairs, 2, "image")
    block = model.blocks[LANGUAGE]
    n, last = block.n_layers, len(table) - 1
    base, goal = Readout.of(corrupt.logits, ids), Readout.of(clean.logits, ids)
    assert (base.logit_diff - goal.logit_diff).abs() > 0.01
    # Clean into clean, and corrupt into corrupt: nothing changes.
    modules = ("residual", "mlp", "self_attention")
    everywhere = [(module, layer, None, 3) for module in modules for layer in block.layers_with(module)]
    same = model.sweep(corrupt, corrupt, inputs, patches(LANGUAGE, everywhere), ids, memory=2**24)
    torch.testing.assert_close(same.logit_diff, base.logit_diff[:, None].expand_as(same.logit_diff), atol=1e-4, rtol=0)
    # The last layer's last position is all that is read.
    one = model.sweep(clean, corrupt, inputs, patches(LANGUAGE, [("residual", n - 1, None, last)]), ids, memory=2**24)
    torch.testing.assert_close(one.correct[:, 0], goal.correct, atol=1e-4, rtol=0)
    if model.adds_image_features_after(n - 2) or model.shares_keys:
        return  # the image gets into the last layer by another way, too
    # Every position of a layer is all that goes on, once the image has entered.
    site = Site(LANGUAGE, "residual", n - 2)
    with torch.no_grad(), attach_hooks([(model.hook_point(site), lambda _: clean[site])]):
        torch.testing.assert_close(model.answer_logits(inputs), clean.logits, atol=1e-4, rtol=0)


def test_image_sites_are_exactly_zero_under_text_corruption(family, random_pairs):
    name, model = family
    vision_block(model)
    table = vt.patch_modules(model, random_pairs.iloc[[0]], "text", blocks=["vision_encoder"], positions=[1])
    assert (table["logit_diff"] == 0).all(), f"{name}'s vision encoder does not read the prompt"


def test_attention_is_given_whatever_the_implementation(model, random_pairs):
    before = model.hf.config.get_text_config()._attn_implementation
    inputs = run_inputs(model, random_pairs.iloc[[0]], "clean")
    block, length = model.blocks[LANGUAGE], inputs["input_ids"].shape[1]
    if not block.attention_modules:
        with pytest.raises(vt.VlmtraceError, match="gives no attention weights, since some of its layers"):
            model.attention(inputs, LANGUAGE, "self_attention")
        return
    weights = model.attention(inputs, LANGUAGE, "self_attention")
    assert weights.shape == (block.n_layers, 1, block.n_heads, length, length)
    if hasattr(model.attention_module(Site(LANGUAGE, "self_attention", 0)), "sinks"):
        assert ((weights.sum(-1) > 0) & (weights.sum(-1) < 1)).all(), "a sink takes a share and gives nothing"
    else:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert model.hf.config.get_text_config()._attn_implementation == before


def test_attention_of_the_vision_encoder_is_given_where_it_says_so(model, random_pairs):
    block = vision_block(model)
    if not block.attention_modules:
        pytest.skip(f"the vision encoder of {model.family.name} keeps its attention weights")
    inputs = run_inputs(model, random_pairs.iloc[[0]], "clean")
    weights = model.attention(inputs, block.name, "self_attention")
    layers, tiles, heads, queries, keys = weights.shape
    assert (layers, heads) == (block.n_layers, block.n_heads) and queries == keys
    assert tiles * queries == len(model.tokens(block.name, "", inputs))
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_a_prompt_without_an_image_is_answered(model):
    inputs = model.encode_text(model.text_only_prompt("is this red or blue?"))
    with torch.no_grad():
        logits = model.answer_logits(inputs)
    assert logits.shape[0] == 1 and logits.isfinite().all()


# Positions in the image ------------------------------------------------------------


@pytest.fixture(scope="session")
def picture():
    """Half as wide again as it is high, so that crops, padding and tiles show."""
    return np.full((84, 126, 3), 128, dtype=np.uint8)


def encode(model, picture):
    return model.encode_image(Image.fromarray(picture))


def test_a_painted_square_is_found_where_it_was_painted(model, picture):
    vision_block(model)
    before = encode(model, picture)
    boxes = model.image_cells(Image.fromarray(picture), before, "vision_encoder")
    site = Site("vision_encoder", "residual", 0)
    entering = model.trace(before, [site]).layer_inputs["vision_encoder"][0]
    assert len(boxes) == len(entering)
    tiles = model.family.layout.positions(model.hf, before)[:, 0]
    placed = np.flatnonzero(~np.isnan(boxes).any(axis=1))
    for position in placed[:: max(1, len(placed) // 4)]:
        top, left, bottom, right = (boxes[position] * [84, 126, 84, 126]).round().astype(int)
        painted = picture.copy()
        painted[top:bottom, left:right] = [255, 0, 255]
        change = (model.trace(encode(model, painted), [site]).layer_inputs["vision_encoder"][0] - entering).norm(dim=-1)
        found = boxes[int(change.argmax())]
        shared = np.minimum(found[2:], boxes[position][2:]) - np.maximum(found[:2], boxes[position][:2])
        smaller = min(np.prod(box[2:] - box[:2]) for box in (found, boxes[position]))
        assert shared.min() > 0 and np.prod(shared) > 0.5 * smaller, f"{position} was painted, {found} changed"
        # Nearly: where patches are normed one by one, a gray neighbour turns at a touch of color.
        assert change[position] > 0.9 * change[tiles == tiles[position]].max(), (
            f"{position} was painted, but changed less than others"
        )


def test_image_tokens_lie_where_their_patches_do(family, picture):
    """Overwriting a patch behind the vision encoder changes the tokens whose boxes hold it, and no others.

    Where convolutions mix squares, those around it change, too, but none that are more than a square away.
    """
    _, model = family
    image, inputs = Image.fromarray(picture), encode(model, picture)
    tokens = model.image_cells(image, inputs)
    is_image = model.is_image(inputs)[0]
    assert len(tokens) == is_image.sum()
    if model.family.square_side is None:
        assert np.isnan(tokens).all()
        return
    if not model.family.vision_types:
        pytest.skip("see the test of pictures that no encoder sees")
    boxes = model.image_cells(image, inputs, "vision_encoder")
    site = Site("vision_encoder", "residual", model.blocks["vision_encoder"].n_layers - 1)
    before = model.trace(inputs, [Site(LANGUAGE, "residual", 0)]).layer_inputs[LANGUAGE]
    for position in range(0, len(boxes), max(1, len(boxes) // 5)):

        def overwrite(value, position=position):
            value = value.clone()
            value[:, position] += torch.randn(value.shape[-1], generator=torch.Generator().manual_seed(0))
            return value

        with attach_hooks([(model.hook_point(site), overwrite)], n_pairs=1):
            after = model.trace(inputs, [Site(LANGUAGE, "residual", 0)]).layer_inputs[LANGUAGE]
        changed = (after - before)[0].abs().amax(-1) > 1e-4
        assert not changed[~is_image].any()
        found = tokens[changed[is_image].numpy()]
        if np.isnan(boxes[position]).any():
            assert np.isnan(found).all(), "what is not in the image belongs to no place in it"
            continue
        if not len(found):
            assert model.family.pack or model.family.pooled, f"position {position} reaches no token"
            continue  # a row at the edge that is mostly padding, and is dropped with it; or another crop has the patch
        holds = (found[:, :2] <= boxes[position][:2] + 1e-3).all(1) & (found[:, 2:] >= boxes[position][2:] - 1e-3).all(
            1
        )
        if model.family.mixes_squares:
            side = found[0, 2:] - found[0, :2] + 1e-3
            near = (found[:, :2] - side <= boxes[position][:2]) & (found[:, 2:] + side >= boxes[position][2:])
            assert holds.any() and near.all()
        else:
            assert holds.all()


def test_where_no_encoder_is_offered_a_painted_square_changes_its_token(model):
    if model.family.vision_types or model.family.square_side is None:
        pytest.skip("an encoder is offered, or tokens have no place")
    # No gray: where patches are normed one by one, a gray one turns at a touch of color.
    picture = np.random.default_rng(0).integers(0, 256, (84, 126, 3), dtype=np.uint8)
    before = encode(model, picture)
    boxes = model.image_cells(Image.fromarray(picture), before)
    clean = model.image_embeddings(before)[0]
    for position in range(0, len(boxes), len(boxes) // 5):
        top, left, bottom, right = (boxes[position] * [84, 126, 84, 126]).round().astype(int)
        painted = picture.copy()
        painted[top:bottom, left:right] = [255, 0, 255]
        change = (model.image_embeddings(encode(model, painted))[0] - clean).norm(dim=-1)
        # Of tiles that show the same place, any may change most.
        found = boxes[int(change.argmax())]
        shared = np.minimum(found[2:], boxes[position][2:]) - np.maximum(found[:2], boxes[position][:2])
        assert shared.min() > 0, f"token {position} was painted, {int(change.argmax())} changed"


def test_positions_are_named_by_row_and_column(family, picture):
    _, model = family
    inputs = encode(model, picture)
    boxes = model.image_cells(Image.fromarray(picture), inputs)
    names = [token.text for token in model.tokens(LANGUAGE, model.prompt_text("?"), inputs) if token.role == "image"]
    if not names or "," not in names[0]:
        family = model.family
        has_class_token = family.reads_class_token(model.hf.config)
        assert family.square_side is None or family.pack or family.pooled or has_class_token
        return
    rows = [int(text.partition(",")[0]) for text in names]
    columns = [int(text.partition(",")[2]) for text in names]
    assert len(set(names)) == len(names)
    for axis, numbers in ((1, columns), (0, rows)):
        # Within a tile larger numbers lie further on.
        same_tile = np.flatnonzero(np.diff(numbers) == 1)
        known = boxes[same_tile + 1, axis] - boxes[same_tile, axis]
        assert (known[~np.isnan(known)] > 0).mean() > 0.5


def test_a_crop_is_accounted_for(model_store, picture):
    model = model_store.shared("llava")
    boxes = model.image_cells(Image.fromarray(picture), encode(model, picture))
    # 126 × 84 pixels become 63 × 42, of which the middle 42 × 42 are kept: a sixth is missing on either side.
    np.testing.assert_allclose(boxes[0], [0, 1 / 6, 1 / 3, 1 / 6 + 2 / 9], atol=0.015)
    np.testing.assert_allclose(boxes[-1], [2 / 3, 5 / 6 - 2 / 9, 1, 5 / 6], atol=0.015)


def test_padding_and_newlines_have_no_place(model_store):
    model = model_store.shared("llava_next")
    image = Image.new("RGB", (120, 40))
    inputs = model.encode_image(image)
    boxes = model.image_cells(image, inputs)
    none = np.isnan(boxes).any(axis=1)
    assert none.sum() == 2, "28 × 56 pixels of two tiles: one newline for each of two rows"
    assert boxes[~none].min() >= 0 and boxes[~none].max() <= 1


def test_answer_tokens_are_what_the_model_generates(model, random_pairs):
    """Token by token through `extend`, without a cache, as generation goes with one."""
    pair = random_pairs.iloc[0]
    inputs = model.encode([pair["clean_image"]], [model.prompt_text(pair["clean_prompt"])])
    taken = model.family.as_batch(inputs)
    ids = model.hf.generate(**taken, max_new_tokens=4, do_sample=False)[0].tolist()
    length = taken["input_ids"].shape[1]
    ids = ids[length:] if ids[:length] == taken["input_ids"][0].tolist() else ids
    found = model.answer_tokens(inputs, max_new_tokens=4)
    stop = next((i for i, token in enumerate(ids) if token in model.stop_ids | model.image_ids), len(ids))
    assert found == ids[:stop]


@pytest.mark.medium
@pytest.mark.parametrize("name", ["kimi_k25", "minicpm_ocr"])
def test_an_answer_ends_before_an_images_token(name, model_store, random_pairs):
    """Random models write one sooner or later; behind it the processor's counts of image tokens would be wrong."""
    model = model_store.shared(name)
    assert model.hf.config.image_token_id in model.image_ids
    answers = vt.evaluate(model, random_pairs)["generated_answer"]
    assert len(answers) == len(random_pairs)


@pytest.mark.parametrize("name", ["blip2"])
def test_patches_of_two_pairs_of_one_length_equal_each_alone(name, model_store, random_pairs):
    """OPT lays the rows of all pairs one behind the other before its feed-forward."""
    model, pairs = model_store.shared(name), random_pairs.iloc[[0, 0, 0]].copy()
    pairs["sample_id"] = ["a", "b", "c"]
    pairs["clean_image"] = random_pairs["clean_image"].iloc[[0, 1, 2]].to_numpy()
    together = vt.patch_modules(model, pairs, blocks=[LANGUAGE])
    alone = pd.concat([vt.patch_modules(model, pairs.iloc[[i]], blocks=[LANGUAGE]) for i in range(3)])
    np.testing.assert_allclose(together["logit_diff"], alone["logit_diff"], atol=1e-4)
    assert together["logit_diff"].abs().max() > VACUOUS
