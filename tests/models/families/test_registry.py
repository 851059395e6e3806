"""Families are found: those of the folder, and those that packages outside bring by an entry point."""

import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from fixtures.apart import APART
from fixtures.families import FAMILIES, llava
from fixtures.family_builders.given_features import GIVEN
from fixtures.models import scramble

import vlmtrace as vt
from vlmtrace.models.families import (
    FamilySpec,
    families,
    families_table,
    family_of,
    registry,
    spec,
    unsupported_families,
)

#: A package that brings a family whose classes transformers does not have.
PLUGGED = """
from transformers import AutoConfig, AutoModelForImageTextToText, LlavaConfig, LlavaForConditionalGeneration

from vlmtrace.models.families import FamilySpec


class PluggedConfig(LlavaConfig):
    model_type = "plugged"


class PluggedForConditionalGeneration(LlavaForConditionalGeneration):
    config_class = PluggedConfig


AutoConfig.register("plugged", PluggedConfig)
AutoModelForImageTextToText.register(PluggedConfig, PluggedForConditionalGeneration)

FAMILIES = [
    FamilySpec("plugged", "Plugged", "PluggedForConditionalGeneration", prompt_start="Picture: {image} Question: ")
]
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a package of one module with one entry point where Python finds it."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def installed(name, source, target=None):
        (tmp_path / f"{name}.py").write_text(source)
        about = tmp_path / f"{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[{registry.GROUP}]\nmine = {target or name}\n")
        registry._found.cache_clear()

    yield installed
    registry._found.cache_clear()
    for module in set(sys.modules) - before:
        if not module.startswith(("vlmtrace", "transformers", "torch")):
            del sys.modules[module]


@pytest.mark.medium
def test_every_family_is_tested_on_a_random_model(model_store):
    tested = {"blip"} | {model_store.shared(name).family.model_type for name in FAMILIES | APART}
    # Their image side cannot be run here; tests/models/test_universal.py looks at the language side.
    tested |= {build()[0].config.model_type for build in GIVEN.values()}
    assert set(families()) == tested, "a family needs a builder in fixtures/family_builders"


def test_a_file_declares_its_families_and_nobody_else_does():
    declared = [spec for module in registry.own_modules() for spec in getattr(module, "FAMILIES", ())]
    assert len(declared) == len({spec.model_type for spec in declared})
    assert all(
        getattr(module, "FAMILIES", ()) or getattr(module, "UNSUPPORTED", ()) for module in registry.own_modules()
    )
    assert not set(unsupported_families()) & set(families())


def test_the_table_has_a_row_for_every_family():
    table = families_table().set_index("model_type")
    assert list(table.index) == list(families())
    assert table.loc["blip", "self_check"] != table.loc["llava", "self_check"]
    assert not table.loc["qwen2_vl", "vision_attention"] and table.loc["llava", "vision_attention"]
    assert (table[["family", "architecture", "supported_by", "since", "image_tokens"]] != "").all(axis=None)
    assert set(table.loc[["blip", "llava", "qwen3_vl", "blip-2"], "since"]) == {"0.1.0"}
    assert table.loc["vipllava", "since"] == "0.2.0" and table.loc["llava", "supported_by"] == "fast sweep"


def test_every_family_takes_several_images_or_says_why_not():
    for family in (one for module in registry.own_modules() for one in getattr(module, "FAMILIES", ())):
        assert bool(family.one_image) != family.several_images, f"{family.name} says neither, or both"
        assert not family.one_image or family.one_image[0].islower(), f"{family.one_image!r} is no part of a sentence"


def test_what_an_encoder_of_timm_needs_is_said_in_one_sentence(monkeypatch):
    config = SimpleNamespace(
        model_type="fast_vlm",
        architectures=["FastVlmForConditionalGeneration"],
        vision_config=SimpleNamespace(model_type="timm_wrapper"),
    )
    monkeypatch.setattr(spec, "find_spec", lambda package: None)
    sentence = (
        "^mine is a FastVlmForConditionalGeneration, which cannot be built without timm, and this is not installed: "
        r"pip install timm\.$"
    )
    with pytest.raises(vt.VlmtraceError, match=sentence):
        family_of(config, "mine")
    monkeypatch.setattr(spec, "find_spec", lambda package: package)
    assert family_of(config, "mine").name == "FastVLM"
    config.vision_config.model_type = "convnext"
    monkeypatch.setattr(spec, "find_spec", lambda package: None)
    assert family_of(config, "mine").name == "FastVLM"


def test_a_package_outside_adds_a_family(install, tmp_path):
    install("plugged_families", PLUGGED)
    assert families()["plugged"].name == "Plugged"
    from plugged_families import PluggedConfig, PluggedForConditionalGeneration

    built, processor = llava()
    processor.chat_template = None
    torch.manual_seed(0)
    options = built.config.to_dict()
    options.pop("model_type")
    model = PluggedForConditionalGeneration(PluggedConfig(**options))
    scramble(model, seed=1)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")

    loaded = vt.load_model(tmp_path / "model")  # with the self-check
    assert type(loaded.hf).__name__ == "PluggedForConditionalGeneration" and loaded.uses_fast_sweep
    assert loaded.prompt_text("is this red?") == "Picture: <image> Question: is this red?"
    assert "Plugged" in set(families_table()["family"])


def test_an_entry_point_may_name_one_family(install):
    source = "from vlmtrace.models.families import FamilySpec\nONE = FamilySpec('one', 'One', 'OneModel')\n"
    install("one_family", source, target="one_family:ONE")
    assert families()["one"] == FamilySpec("one", "One", "OneModel")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no\\nluck')", r"\(RuntimeError: no luck\)"),
        ("import a_package_that_is_not_there", r"\(ModuleNotFoundError: No module named .*\)"),
        ("FAMILIES = ['llava']", r"\(VlmtraceError: broken_families holds 'llava' where a FamilySpec is expected\)"),
        ("FAMILIES = 3", r"\(TypeError: .*not iterable\)"),
        (
            "from vlmtrace.models.families import FamilySpec\nFAMILIES = [FamilySpec('llava', 'My LLaVA', 'Llava')]",
            r"\(VlmtraceError: llava is a family already\)",
        ),
    ],
)
def test_a_broken_package_is_named_in_one_sentence_and_left_out(install, tmp_path, source, reason):
    install("broken_families", source)
    sentence = (
        r"The model families of the package broken_families \(entry point mine = broken_families\) cannot be used "
        rf"{reason}: update or uninstall broken_families\."
    )
    with pytest.warns(UserWarning, match=sentence) as caught:
        found = families()
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert found["llava"].architecture == "LlavaForConditionalGeneration" and "blip" in found

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert vt.load_model("tiny-blip", check=False).name == "tiny-blip"

    for name in ("model.safetensors", "tokenizer.json", "preprocessor_config.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(
        vt.VlmtraceError, match=rf"which vlmtrace does not know: .* types of model that are supported\. {sentence}"
    ):
        vt.load_model(tmp_path)
