"""Folders as people bring them: fine-tuned, half fetched, one level too high, with code of their own beside."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from fixtures.broken_folders import LFS_POINTER, logits, refusal, set_entry
from transformers.dynamic_module_utils import get_class_from_dynamic_module

import vlmtrace as vt
from vlmtrace.models.model_folders import check_no_code


def train(hf, inputs, steps=2):
    """A few steps, as fine-tuning takes them."""
    hf.train().requires_grad_(True)
    optimizer = torch.optim.SGD(hf.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        hf(**inputs, labels=inputs["input_ids"]).loss.backward()
        optimizer.step()
    return hf.eval()


@pytest.fixture
def finetuned(model_store, tmp_path):
    """What a trainer leaves: checkpoints in folders of their own, each with much that is no model."""
    loaded = model_store.load("llava")
    inputs = loaded.encode([torch.zeros(40, 40, 3, dtype=torch.uint8)], [loaded.prompt_text("is it red?")])
    output = tmp_path / "output"
    for step in (5, 20, 100):
        folder = output / f"checkpoint-{step}"
        train(loaded.hf, inputs).save_pretrained(folder)
        loaded.processor.save_pretrained(folder)
        for file in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
            (folder / file).write_bytes(b"{}")
    return output, loaded


def test_a_fine_tuned_folder_is_the_model_that_was_trained(finetuned, model_store):
    output, trained = finetuned
    model = vt.load_model(output / "checkpoint-100")
    assert model.fingerprint() == trained.fingerprint() != model_store.shared("llava").fingerprint()
    assert torch.equal(logits(model), logits(vt.wrap_model(trained.hf, trained.processor, check=False)))


def test_a_folder_of_checkpoints_names_them(finetuned):
    output, _ = finetuned
    assert "give one of the directories in it that do (checkpoint-5, checkpoint-20, checkpoint-100)" in refusal(output)


def test_a_fine_tuned_folder_without_processor_says_which_to_take(finetuned):
    output, _ = finetuned
    (output / "checkpoint-5" / "processor_config.json").unlink()
    assert "for a fine-tuned one that of the model that training began with" in refusal(output / "checkpoint-5")


@pytest.mark.parametrize("family", ["llava", "random_blip"])
def test_a_pointer_of_git_lfs_is_told_whichever_file_it_is(model_store, family, tmp_path):
    for file in sorted(path.name for path in model_store.path(family).iterdir()):
        folder = shutil.copytree(model_store.path(family), tmp_path / file)
        (folder / file).write_bytes(LFS_POINTER)
        said = refusal(folder)
        assert file in said and "git lfs pull" in said, said


# Paths as a shell means them


def test_a_path_may_begin_with_the_users_folder(model_store, tmp_path, monkeypatch):
    shutil.copytree(model_store.path("random_blip"), tmp_path / "models" / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    model = vt.load_model("~/models/mine", check=False)
    assert model.fingerprint() == model_store.shared("random_blip").fingerprint()
    assert vt.load_model(Path("~") / "models" / "mine", check=False).fingerprint() == model.fingerprint()
    assert vt.wrap_model(model.hf, "~/models/mine", check=False).fingerprint() == model.fingerprint()


@pytest.mark.parametrize("name", ["mine", "./mine", "../here/mine"])
def test_a_relative_path_starts_where_one_is(model_store, tmp_path, monkeypatch, name):
    shutil.copytree(model_store.path("random_blip"), tmp_path / "here" / "mine")
    monkeypatch.chdir(tmp_path / "here")
    assert vt.load_model(name, check=False).fingerprint() == model_store.shared("random_blip").fingerprint()


# Code beside a model


def with_code(folder):
    """Every configuration names classes of a module beside it, which leaves a file when it is imported."""
    mark = folder / "it was run"
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Own: pass\n")
    for name, classes in {
        "config.json": ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor", "AutoTokenizer"),
        "processor_config.json": ("AutoProcessor", "AutoImageProcessor"),
        "preprocessor_config.json": ("AutoProcessor", "AutoImageProcessor"),
        "tokenizer_config.json": ("AutoTokenizer", "AutoProcessor"),
    }.items():
        if (folder / name).is_file():
            auto_map = {kind: ["own.Own"] * 2 if kind == "AutoTokenizer" else "own.Own" for kind in classes}
            set_entry(name, ("auto_map",), auto_map)(folder)
    return folder, mark


@pytest.mark.parametrize("name", ["llava", "random_blip", "qwen2_5_vl", "internvl", "idefics3"])
def test_code_beside_a_class_that_transformers_has_is_left_aside(copy, name, model_store, monkeypatch):
    folder, mark = with_code(copy(name))

    def never(*_args, **_options):
        raise AssertionError("a class of the folder is about to be imported")

    for kind in ("auto_factory", "configuration_auto", "processing_auto", "image_processing_auto", "tokenization_auto"):
        monkeypatch.setattr(f"transformers.models.auto.{kind}.get_class_from_dynamic_module", never)
    torch.testing.assert_close(logits(vt.load_model(folder)), logits(model_store.shared(name)))
    assert not mark.exists()


def test_the_code_would_have_been_run_by_who_allows_it(copy):
    """The mark of the test above is left where code is run."""
    folder, mark = with_code(copy("llava"))
    get_class_from_dynamic_module("own.Own", str(folder))
    assert mark.exists()


@pytest.mark.parametrize("model_type", ["llava_but_newer", None, 5])
def test_code_without_which_there_is_no_model_is_refused(copy, model_type):
    folder, mark = with_code(copy("llava"))
    set_entry("config.json", ("model_type",), model_type)(folder)
    assert "brings code of its own (auto_map in config.json), which vlmtrace never runs" in refusal(folder)
    assert not mark.exists()


def test_a_type_that_a_package_registered_is_known(copy, monkeypatch):
    folder, _ = with_code(copy("llava"))
    set_entry("config.json", ("model_type",), "of_a_package")(folder)
    monkeypatch.setitem(transformers.CONFIG_MAPPING._extra_content, "of_a_package", transformers.LlavaConfig)
    check_no_code(folder, "m")


def test_a_processor_that_only_its_own_code_knows_is_refused(copy):
    folder, mark = with_code(copy("llava"))
    for file in ("processor_config.json", "tokenizer_config.json"):
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | {"processor_class": "OwnProcessor"}))
    refusal(folder)
    assert not mark.exists()
