"""Number types, placement and the like are checked before anything is read, and the model is as it was asked for."""

import json

import numpy as np
import pytest
import torch
from fixtures.broken_folders import refusal, set_entry

import vlmtrace as vt
from vlmtrace.models import load_options
from vlmtrace.models.load_options import DTYPES, LoadOptions


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"dtype": "int8"}, "Unknown dtype 'int8'"),
        ({"device_map": "everywhere"}, "Unknown device_map 'everywhere'"),
        ({"device_map": "cuda:0"}, "names one place for all: write device=cuda:0"),
        ({"device_map": "disk"}, r"names one place for all: write device_map=\{'': 'disk'\}"),
        ({"quantization": "4bit"}, "Unknown quantization '4bit'"),
        ({"attn_implementation": "flash_attention_2"}, "Unknown attn_implementation 'flash_attention_2'"),
        ({"image_size": "large"}, "image_size='large' is no width and height"),
        ({"image_size": (448, 0)}, "is no width and height"),
        ({"image_size": (448,)}, "is no width and height.*one number for a square"),
        ({"image_size": 0}, "is no width and height"),
        ({"image_size": (30000, 30000)}, "more pixels than the 120,000,000"),
        ({"max_pixels": -1}, "max_pixels must be a whole number from 0 to 120,000,000, not -1"),
        ({"device_map": "auto", "device": "cuda"}, "device=cuda and device_map are both given"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(model_store, given, sentence):
    with pytest.raises(vt.VlmtraceError, match=sentence):
        vt.load_model(model_store.path("llava"), **given)


def test_empty_texts_mean_nothing_as_in_notebooks():
    assert LoadOptions.of(device_map="", quantization="", attn_implementation="", image_size="") == LoadOptions()


@pytest.mark.parametrize(
    ("given", "missing", "extra"),
    [
        ({"device_map": "auto"}, "accelerate", "accelerate"),
        ({"quantization": "bitsandbytes-4bit"}, "bitsandbytes", "bitsandbytes"),
        ({"quantization": "bitsandbytes-8bit"}, "accelerate", "bitsandbytes"),
        ({"quantization": "torchao-int8"}, "torchao", "torchao"),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch, given, missing, extra):
    monkeypatch.setattr(load_options, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(vt.VlmtraceError, match=rf"needs the package {missing}.*pip install .* -e '\.\[{extra}\]' in"):
        LoadOptions.of(**given)


def test_a_checkpoint_that_needs_a_missing_library_names_it(monkeypatch, copy):
    monkeypatch.setattr(load_options, "find_spec", lambda name: None if name == "bitsandbytes" else object())
    folder = copy("llava")
    set_entry("config.json", ("quantization_config",), {"quant_method": "bitsandbytes", "load_in_4bit": True})(folder)
    assert "quantized by bitsandbytes, needs the package bitsandbytes" in refusal(folder)


@pytest.mark.parametrize("name", DTYPES)
def test_every_type_runs_on_the_cpu(model_store, random_pairs, name):
    model = vt.load_model(model_store.path("llava"), dtype=name)
    assert model.dtype == DTYPES[name] and model.uses_fast_sweep and model.loading == name
    found = vt.patch_modules(model, random_pairs[:1], blocks=["language_model"], positions=["last"])
    expected = vt.patch_modules(
        model_store.shared("llava"), random_pairs[:1], blocks=["language_model"], positions=["last"]
    )
    off = np.abs(found["logit_diff"] - expected["logit_diff"]).max()
    assert off < (1e-4 if name in ("float32", "float64") else 0.3)
    assert (off > 0) == (name != "float32"), "it was computed in another type"


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_auto_is_the_type_that_the_checkpoint_is_stored_in(model_store, tmp_path, stored):
    model = model_store.load("llava")
    model.hf.to(stored).save_pretrained(tmp_path)
    model.processor.save_pretrained(tmp_path)
    assert vt.load_model(tmp_path, dtype="auto", check=False).dtype == stored
    set_entry("config.json", ("dtype",), None)(tmp_path)
    assert vt.load_model(tmp_path, dtype="auto", check=False).dtype == stored, "config.json does not say it"
    assert vt.load_model(tmp_path, check=False).dtype == torch.float32


def test_attention_is_computed_as_asked(model_store):
    for name in load_options.ATTENTION:
        model = vt.load_model(model_store.path("llava"), attn_implementation=name)
        assert model.hf.config.get_text_config()._attn_implementation == name
        assert model.loading == f"float32, {name}"


def test_what_loads_the_same_again_is_kept():
    options = LoadOptions.of("bfloat16", attn_implementation="eager", max_pixels=900, image_size="40x20")
    assert LoadOptions.of("bfloat16", **options.given()) == options
    assert str(options) == "bfloat16, eager, max_pixels=900, image_size=40x20"


def test_the_remedy_names_what_else_may_be_at_fault():
    assert "one checkpoint" in LoadOptions().remedy and "without" not in LoadOptions().remedy
    said = LoadOptions.of(device_map="auto", image_size="40x20").remedy
    assert said.startswith("load it without device_map and image_size, and if that works, choose another")


@pytest.mark.parametrize("stored", [False, True])
def test_codes_of_four_bits_are_not_computed_in_float64(copy, stored):
    folder = copy("llava")
    if stored:
        set_entry("config.json", ("quantization_config",), {"quant_method": "bitsandbytes", "load_in_4bit": True})(
            folder
        )
        written = json.loads((folder / "config.json").read_text())
        with pytest.raises(vt.VlmtraceError, match="float64: choose another dtype"):
            load_options.check_computable(torch.float64, None, written, "it")
        load_options.check_computable(torch.float32, None, written, "it")
        return
    with pytest.raises(vt.VlmtraceError, match="float64: choose another dtype"):
        vt.load_model(folder, quantization="bitsandbytes-4bit", dtype="float64")


@pytest.mark.parametrize("given", [84, "84", "84x84", (84, 84)])
def test_one_number_is_a_square(model_store, random_pairs, given):
    model = vt.load_model(model_store.path("llava"), image_size=given, check=False)
    assert model.load_options.sizing.size == (84, 84) and model.loading == "float32, image_size=84x84"


def test_a_size_that_the_processor_cannot_take_is_told_at_load(model_store):
    said = r"^image_size=900x3 cannot be used with .*aspect ratio.*: choose another"
    with pytest.raises(vt.VlmtraceError, match=said):
        vt.load_model(model_store.path("qwen2_vl"), image_size=(900, 3), check=False)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (84, r"self-check of .* fails \(.*84.*\): load it without image_size"),
        (448, r"^image_size=448x448 cannot be used with .* more than the 256 positions"),
    ],
)
def test_a_size_that_positions_do_not_fit_is_not_blamed_on_the_files(copy, size, said):
    folder = copy("llava")
    for entry in ("do_resize", "do_center_crop"):
        set_entry("processor_config.json", ("image_processor", entry), False)(folder)
    with pytest.raises(vt.VlmtraceError, match=said):
        vt.load_model(folder, image_size=size)
    assert vt.load_model(folder, image_size=42).uses_fast_sweep
