"""Pix2Struct, loaded by `load_model`: sites equal hooked passes, and words and pixels are where positions say."""

import warnings
from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.pix2struct import image_processing_pil_pix2struct as drawing

import vlmtrace as vt
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.token_roles import token_table
from vlmtrace.methods.relevancy import relevancy
from vlmtrace.models import Patches, Readout
from vlmtrace.models import prompt_header as header
from vlmtrace.models.image_decoder import DECODER, VISION
from vlmtrace.models.pix2struct import HEADER, PATCHES, Pix2Struct
from vlmtrace.models.sweep import reference

FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"


@pytest.fixture(scope="module", params=["pix2struct", "pix2struct_captions"])
def model(request, model_store):
    return model_store.shared(request.param)


@pytest.fixture(scope="module")
def asked(model_store):
    return model_store.shared("pix2struct")


@pytest.mark.medium
@pytest.mark.parametrize("corruption", ["image", "text"])
def test_every_layer_module_and_head_equals_hooked_passes(model, random_pairs, corruption, record_property):
    assert isinstance(model, Pix2Struct) and model.uses_fast_sweep
    pair = random_pairs.iloc[[1]]
    clean_inputs, inputs = (run_inputs(model, pair, side) for side in ("clean", corruption))
    clean, corrupt = model.trace(clean_inputs), model.trace(inputs)
    ids = model.answer_ids(pair["correct_answer"], pair["incorrect_answer"])
    base = Readout.of(corrupt.logits, ids)
    # A question that is drawn reaches the vision encoder, too.
    seeing = corruption == "image" or model.draws_prompts
    for block in [model.blocks[VISION]] * seeing + [model.blocks[DECODER]]:
        length = int(inputs["attention_mask"].sum()) if block.name == VISION else inputs["input_ids"].shape[1]
        places = sorted({0, length // 10, length // 2, length - 1})
        chosen = [(m, layer, None, at) for m, layer, at in product(block.modules, range(block.n_layers), places)]
        chosen += [(m, layer, 1, at) for m, layer, at in product(block.head_modules, range(block.n_layers), places)]
        modules, layers, heads, positions = (list(column) for column in zip(*chosen, strict=True))
        patches = Patches(block.name, modules, layers, heads, torch.tensor([positions]))
        fast = model.sweep(clean, corrupt, inputs, patches, ids, memory=2**28)
        slow = reference.sweep(model, clean, inputs, patches, ids)
        worst = max((getattr(fast, name) - getattr(slow, name)).abs().max().item() for name in vars(slow))
        record_property(f"largest difference in {block.name}", worst)
        allowed = 1e-4 * max(1, corrupt.logits.abs().max().item())
        assert worst <= allowed, f"{block.name}: logits are off by {worst:.2g}"
        effects = (slow.logit_diff - base.logit_diff[:, None]).abs()[0]
        for module in block.modules:
            if corruption == "text" and not model.draws_prompts and module == "cross_attention":
                continue  # what it looks at is the same
            assert effects[[i for i, name in enumerate(modules) if name == module]].max() > 1e-3, f"{module}: no effect"


def test_layers_below_a_patch_are_skipped(asked, random_pairs):
    clean_inputs, inputs = (run_inputs(asked, random_pairs.iloc[[1]], side) for side in ("clean", "image"))
    patches = Patches(DECODER, ["residual"], [2], [None], torch.tensor([[0]]))
    asked.sweep(asked.trace(clean_inputs), asked.trace(inputs), inputs, patches, torch.tensor([[5, 6]]), memory=2**28)
    assert asked.skippable == {VISION, DECODER}


def test_inputs_are_those_of_the_models_own_processor(model, random_pairs, monkeypatch):
    """It draws by itself, in a font that it fetches: here the file is given."""
    pair = random_pairs.iloc[0]
    monkeypatch.setattr(drawing, "hf_api", lambda: type("", (), {"hf_hub_download": lambda *_: str(FONT)})())
    expected = model.processor(
        images=Image.open(pair["clean_image"]), text=pair["clean_prompt"], return_tensors="pt", max_patches=96
    )
    found = run_inputs(model, random_pairs.iloc[[0]], "clean")
    torch.testing.assert_close(found[PATCHES], expected[PATCHES], rtol=0, atol=0)
    torch.testing.assert_close(found["attention_mask"], expected["attention_mask"], rtol=0, atol=0)
    if not model.draws_prompts:
        assert found["input_ids"][0, 1:].tolist() == expected["decoder_input_ids"][0].tolist()


def test_answers_are_what_the_model_generates(model, random_pairs):
    inputs = run_inputs(model, random_pairs.iloc[[0]], "clean")
    given = {PATCHES: inputs[PATCHES], "attention_mask": inputs["attention_mask"]}
    ids = model.hf.generate(**given, decoder_input_ids=inputs["input_ids"], max_new_tokens=4, do_sample=False)[0]
    ids = ids.tolist()[inputs["input_ids"].shape[1] :]
    stop = next((i for i, token in enumerate(ids) if token in model.stop_ids), len(ids))
    assert model.answer_tokens(inputs, max_new_tokens=4) == ids[:stop]


def test_the_image_enters_where_it_is_replaced(model, random_pairs):
    clean, inputs = (run_inputs(model, random_pairs.iloc[[1]], side) for side in ("clean", "image"))
    with torch.no_grad():
        expected = model.answer_logits(clean)
        torch.testing.assert_close(model.answer_logits(inputs, model.image_embeddings(clean)), expected)
        assert (model.answer_logits(inputs) - expected).abs().max() > 1e-3


# Where positions lie ------------------------------------------------------------


def test_all_ink_lies_in_the_boxes_of_letters():
    text = "Is the word jumping over the lazy dog, or is it a very long line that has to be broken up into several?"
    font = header.Font("DejaVu Sans", FONT.read_bytes())
    ink = np.asarray(drawing.render_text(text, font_path=str(FONT)).convert("L")) < 128  # (H, W)
    boxes = header.letter_boxes(text, font)
    assert [bool(np.isnan(box).any()) for box in boxes] == [letter == " " for letter in text]
    covered = np.zeros_like(ink)
    for letter, box in zip(text, boxes, strict=True):
        if letter != " ":
            top, left, bottom, right = (box * np.tile(ink.shape, 2)).round().astype(int)
            assert ink[top:bottom, left:right].any(), f"nothing is drawn where {letter!r} should be"
            covered[top : bottom + 1, left - 1 : right + 2] = True
    assert not (ink & ~covered).any(), "letters are drawn where there should be none"
    assert ink.shape[0] > 80, "the text of this test has two lines"


def test_patches_of_the_header_have_the_roles_of_their_words(asked, random_pairs):
    pair = random_pairs.iloc[0]
    inputs = run_inputs(asked, random_pairs.iloc[[0]], "clean")
    table = token_table(asked, pair, VISION, inputs)
    roles = table["token_role"].tolist()
    rows, columns = asked.patch_grid(inputs)
    assert len(roles) == inputs[PATCHES].shape[1] == 96
    assert roles[rows * columns :] == ["padding"] * (96 - rows * columns) and "padding" not in roles[: rows * columns]
    place = {role: [i % columns for i, one in enumerate(roles) if one == role] for role in set(roles)}
    # "is this circle red or blue?"
    assert max(place["is"]) <= min(place["correct"]) < min(place["or"]) <= min(place["incorrect"])
    shown = roles.index("image")
    assert set(roles[shown : rows * columns]) == {"image"}
    assert shown == columns * round(float(inputs[HEADER][0]) * rows)
    boxes = asked.image_cells(pair["clean_image"], inputs)
    assert [role == "image" for role in roles] == (~np.isnan(boxes).any(axis=1)).tolist()
    assert len(roles) == asked.image_embeddings(inputs).shape[1] == len(asked.image_positions(inputs, VISION))


def test_a_painted_square_is_found_where_it_was_painted(model):
    # No gray: each image is normed by its own mean and deviation.
    picture = np.random.default_rng(0).integers(0, 256, (84, 126, 3), dtype=np.uint8)
    before = model.encode_image(Image.fromarray(picture))
    boxes = model.image_cells(Image.fromarray(picture), before)
    placed = np.flatnonzero(~np.isnan(boxes).any(axis=1))
    assert boxes[placed, 2].max() == boxes[placed, 3].max() == 1 and boxes[placed, :2].min() == 0
    for position in placed[:: len(placed) // 8]:
        top, left, bottom, right = (boxes[position] * [84, 126, 84, 126]).round().astype(int)
        painted = picture.copy()
        painted[top:bottom, left:right] = [255, 0, 255]
        change = (model.encode_image(Image.fromarray(painted))[PATCHES] - before[PATCHES])[0].norm(dim=-1)
        assert int(change.argmax()) == position


def test_the_decoders_tokens_have_names(model, random_pairs):
    inputs = run_inputs(model, random_pairs.iloc[[0]], "clean")
    text = model.prompt_text(random_pairs["clean_prompt"].iloc[0])
    names = model.tokens(DECODER, text, model.extend(inputs, [5, 6]))
    assert len(names) == inputs["input_ids"].shape[1] + 2 and [name.role for name in names[-2:]] == ["answer", "last"]
    assert names[0].role in ("start", "<pad>")


# Runs that do not correspond, and what cannot be drawn ---------------------------------


def test_a_question_of_another_width_is_refused(asked, random_pairs):
    wide = "is this round figure perhaps of a greenish or of a yellowish color?"
    pairs = random_pairs.iloc[[0, 1]].reset_index(drop=True)
    pairs.loc[0, "corrupt_prompt"] = wide
    message = r"Pair 'pair-0': The clean and the corrupt run are not aligned for .*: the question is drawn above"
    with pytest.raises(vt.VlmtraceError, match=message):
        vt.patch_modules(asked, pairs.iloc[[0]], "text", blocks=[DECODER])
    with pytest.warns(UserWarning, match="1 of 2 pairs cannot be used with text corruption"):
        evaluated = vt.evaluate(asked, pairs).set_index("sample_id")
    assert evaluated["text_logit_diff"].isna().to_dict() == {"pair-0": True, "pair-1": False}
    assert evaluated["image_logit_diff"].notna().all()


def test_words_of_unlike_tokens_are_no_reason_to_refuse(model, random_pairs):
    pair = random_pairs.iloc[[0]].assign(corrupt_prompt="is this circle grim or xqzwv?")
    if model.draws_prompts:
        assert vt.patch_modules(model, pair, "text", blocks=[VISION], positions=[3])["logit_diff"].notna().all()
    else:
        with pytest.raises(vt.VlmtraceError, match="has 8 tokens and the corrupt prompt"):
            vt.patch_modules(model, pair, "text", blocks=[DECODER])


def test_images_of_unlike_shape_are_refused(model, random_pairs, tmp_path):
    Image.new("RGB", (40, 90)).save(tmp_path / "high.png")
    pair = random_pairs.iloc[[0]].assign(corrupt_image=str(tmp_path / "high.png"))
    with pytest.raises(vt.VlmtraceError, match=r"× \d+ against \d+ × \d+ patches.*use images of one size"):
        vt.patch_modules(model, pair, blocks=[DECODER])


def test_letters_that_the_font_lacks_and_strips_are_refused(asked):
    with pytest.raises(vt.VlmtraceError, match="cannot be drawn above the image: DejaVu Sans has no '红'"):
        asked.encode([Image.new("RGB", (40, 40))], ["is this 红?"])
    with pytest.raises(vt.VlmtraceError, match="use a less narrow one"):
        asked.encode([Image.new("RGB", (1, 3000))], ["is this circle red or blue?"])


def test_rows_that_half_precision_cannot_count_are_refused(model_store):
    model = vt.load_model(model_store.path("pix2struct_captions"), dtype="bfloat16", check=False)
    model.processor.image_processor.max_patches = 600
    prompts = [model.prompt_text("a")]
    assert model.encode([Image.new("RGB", (30, 30))], prompts)[PATCHES].dtype == torch.bfloat16
    with pytest.raises(vt.VlmtraceError, match="more rows or columns of patches than bfloat16 can count"):
        model.encode([Image.new("RGB", (10, 3000))], prompts)


def test_the_font_of_transformers_is_taken_where_the_cache_has_it(monkeypatch, tmp_path):
    monkeypatch.setattr(header.huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    with pytest.warns(UserWarning, match="m reads its question as an image of letters, and Arial.* is not in the hub"):
        assert header.find_font("m") == header.Font("DejaVu Sans", FONT.read_bytes())
    (tmp_path / "Arial.TTF").write_bytes(FONT.read_bytes())
    monkeypatch.setattr(header.huggingface_hub, "try_to_load_from_cache", lambda *_: str(tmp_path / "Arial.TTF"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert header.find_font("m").name == "Arial"


# Methods ------------------------------------------------------------


@pytest.mark.medium
def test_methods_run_on_them(model, random_pairs):
    pairs = random_pairs.iloc[[0, 1]]
    words = ["correct"] if model.draws_prompts else []
    modules = vt.patch_modules(model, pairs, "text", positions=[*words, "last"])
    assert set(modules["block"]) == ({VISION, DECODER} if words else {DECODER})
    assert modules["logit_diff"].abs().max() > 1e-3
    heads = vt.patch_heads(model, pairs, positions=["last"])
    assert set(heads["module"]) == {"self_attention", "cross_attention"} and heads["logit_diff"].abs().max() > 1e-4
    cuts = vt.knock_out_attention(model, pairs.iloc[[0]], edges=[("image", "last")])
    assert cuts["logit_diff"].abs().max() > 1e-4
    found = set(vt.knock_out_attention(model, pairs.iloc[[0]])["token_role"])
    assert found == {f"{source} → {target}" for source, target in model.edges}
    whole = pairs.iloc[[0]].assign(correct_answer="red circle", incorrect_answer="blue square")
    effects = vt.patch_modules(model, whole, blocks=[VISION], positions=[30, 40])
    assert effects["logit_diff"].abs().max() > 1e-3
    reads = VISION if model.draws_prompts else DECODER
    with pytest.raises(vt.VlmtraceError, match=f"reads its question in its {reads} and answers in its {DECODER}"):
        relevancy(model, pairs["clean_image"].iloc[0], pairs["clean_prompt"].iloc[0])


def test_attention_of_the_vision_encoder_leaves_out_what_fills_up(model, random_pairs):
    inputs = run_inputs(model, random_pairs.iloc[[0]], "clean")
    weights = model.attention(inputs, VISION, "self_attention")
    assert weights.shape == (2, 1, 2, 96, 96)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert (weights[..., inputs["attention_mask"][0] == 0] == 0).all()
