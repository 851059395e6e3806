"""Families whose vision encoder is not offered, or that have none: where their image tokens lie, if anywhere."""

import numpy as np
import pytest
import torch
from PIL import Image

from vlmtrace.models import Site
from vlmtrace.models.families.minicpm import SliceBySlice
from vlmtrace.models.image_geometry import patch_boxes

LANGUAGE = "language_model"


@pytest.fixture(scope="module")
def picture():
    """Half as wide again as it is high, so that crops and padding show."""
    return Image.new("RGB", (126, 84), (128, 128, 128))


def entering(model, inputs):
    """What enters the first text layer at image tokens: (image token, width)."""
    stream = model.trace(inputs, [Site(LANGUAGE, "residual", 0)]).layer_inputs[LANGUAGE]
    return stream[0, model.is_image(inputs)[0]]


@pytest.mark.parametrize("name", ["minicpmv4_6", "minicpmv4_7", "minicpm_ocr"])
def test_an_image_token_of_minicpm_is_made_of_the_patches_in_its_box(model_store, picture, name):
    """Overwriting what the last vision layer gives changes the token whose box holds it, and no other."""
    model = model_store.shared(name)
    assert list(model.blocks) == [LANGUAGE]
    inputs = model.encode_image(picture)
    tokens, patches = model.image_cells(picture, inputs), patch_boxes(model, picture)
    assert not np.isnan(tokens).any()
    before = entering(model, inputs)
    last = model.vision_layers[-1]
    merged = 1 if model.hf.config.downsample_mode == "4x" else 2  # patches along each side of one of its positions
    tiles, rows, columns, _ = patches.shape
    n = tiles * (rows // merged) * (columns // merged)
    for position in range(0, n, max(1, n // 6)):
        handle = last.register_forward_hook(lambda _module, _args, out, at=position: overwritten(out, at))
        try:
            changed = ((entering(model, inputs) - before).abs().amax(-1) > 1e-5).nonzero()[:, 0].tolist()
        finally:
            handle.remove()
        tile, place = divmod(position, n // tiles)
        row, column = (part * merged for part in divmod(place, columns // merged))
        assert len(changed) == 1, f"position {position} reaches {len(changed)} tokens"
        inside, around = patches[tile, row, column], tokens[changed[0]]
        assert (around[:2] <= inside[:2] + 1e-3).all() and (around[2:] >= inside[2:] - 1e-3).all()


def overwritten(out, position):
    value = out.clone()
    value[:, position] += torch.randn(value.shape[-1], generator=torch.Generator().manual_seed(0))
    return value


def test_slices_of_unlike_size_are_cut_out_of_the_strip(model_store):
    generator = np.random.default_rng(0)
    pictures = [generator.random((3, 8 * rows, 8 * columns)) for rows, columns in ((2, 3), (4, 1))]
    images = model_store.shared("minicpmv4_6").processor.image_processor
    strip = np.concatenate([images.reshape_by_patch(picture, 8) for picture in pictures], axis=-1)
    inputs = {"pixel_values": torch.tensor(strip)[None], "target_sizes": torch.tensor([[2, 3], [4, 1]])}
    assert SliceBySlice().grid(None, inputs) == (2, 4, 3)
    found = SliceBySlice().tiles(None, inputs)
    assert found.shape == (2, 3, 32, 24)
    for tile, picture in zip(found, pictures, strict=True):
        _, height, width = picture.shape
        np.testing.assert_allclose(tile[:, :height, :width], picture, atol=1e-6)
        assert tile.sum() == pytest.approx(picture.sum(), rel=1e-5), "beside the slice there is nothing"


def test_slices_of_unlike_size_have_no_places(model_store):
    model = model_store.shared("minicpmv4_6")
    image = Image.new("RGB", (64, 160))
    inputs = model.encode_image(image)
    assert len(inputs["target_sizes"].unique(dim=0)) > 1, "the test wants slices of unlike size"
    assert np.isnan(model.image_cells(image, inputs)).all()


def test_emu3_names_its_codes_by_number(model_store, picture):
    model = model_store.shared("emu3")
    inputs = model.encode_image(picture)
    _, rows, columns = model.family.layout.grid(model.hf.config, inputs)
    names = [token.text for token in model.tokens(LANGUAGE, model.prompt_text("?"), inputs) if token.role == "image"]
    assert names == [str(i) for i in range(rows * (columns + 1))], "a newline follows each row"
    assert np.isnan(model.image_cells(picture, inputs)).all()


@pytest.mark.parametrize("name", ["minicpmv4_6", "minicpm_ocr", "emu3", "fuyu"])
def test_two_prompts_in_one_batch_equal_each_alone(model_store, name):
    model, generator = model_store.shared(name), np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(2)]
    prompts = [model.prompt_text(prompt) for prompt in ("is this circle red or blue?", "is this square red or blue?")]
    with torch.no_grad():
        together = model.answer_logits(model.encode(pictures, prompts))
        alone = [
            model.answer_logits(model.encode([one], [asked])) for one, asked in zip(pictures, prompts, strict=True)
        ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=0)
    assert (together[0] - together[1]).abs().max() > 0.1
