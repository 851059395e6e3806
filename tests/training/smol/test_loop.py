"""A training that was killed goes on with the same batches, and ends with the same numbers."""

import contextlib
import json
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch
from fixtures import tiny_smol
from safetensors.torch import load_file

from vlmtrace import VlmtraceError
from vlmtrace.training.smol import __main__ as program
from vlmtrace.training.smol import loop
from vlmtrace.training.smol import make as making
from vlmtrace.training.smol.adapter import CONFIG, PROJECTOR, WEIGHTS, attach, merge
from vlmtrace.training.smol.assembled import assemble, digest_of_eyes
from vlmtrace.training.smol.checkpoint import Progress, resume, save_checkpoint
from vlmtrace.training.smol.own_text import own_texts
from vlmtrace.training.smol.recipe import Recipe
from vlmtrace.training.smol.score import summary
from vlmtrace.training.smol.stream import Encoder, told_questions, training_batch, training_batches

pytest.importorskip("peft", reason="peft is not installed (pip install -e '.[smol]')")

RECIPE = Recipe(
    steps=4, n_pairs=1, n_told=2, n_own=1, n_questions=3, rank=2, alpha=4, warmup=1, score_every=3, score_pairs=2,
    save_minutes=0,
)  # fmt: skip
CPU = torch.device("cpu")


class Killed(Exception):
    """In place of a signal."""


def trained(tmp_path, name, recipe=RECIPE, workers=0):
    model, processor = assemble(tiny_smol.language_model(), tiny_smol.tokenizer())
    out, work = tmp_path / name, tmp_path / f"{name}-work"
    loop.train(model, processor.tokenizer, recipe, out, work, CPU, workers, final_pairs=2)
    return load_file(out / WEIGHTS) | load_file(out / PROJECTOR), json.loads((out / loop.RESULTS).read_text())


@pytest.fixture(autouse=True)
def short_texts(monkeypatch):
    monkeypatch.setattr("vlmtrace.training.smol.own_text.LENGTH", 24)


@pytest.mark.medium
def test_a_killed_training_ends_as_one_that_was_not(tmp_path, monkeypatch):
    whole, results = trained(tmp_path, "whole")
    take, seen = loop._step, []

    def killed_after_two(*arguments):
        if len(seen) == 2:
            raise Killed
        seen.append(arguments[-1])
        take(*arguments)

    monkeypatch.setattr(loop, "_step", killed_after_two)
    with pytest.raises(Killed):
        trained(tmp_path, "killed")
    assert (tmp_path / "killed-work" / loop.CHECKPOINT).is_file()
    seen.clear()
    monkeypatch.setattr(loop, "_step", lambda *arguments: (seen.append(arguments[-1]), take(*arguments)))
    again, resumed = trained(tmp_path, "killed")
    assert seen == [3, 4], "steps that were done were taken again, or some were left out"
    assert set(again) == set(whole)
    for name in whole:
        assert torch.equal(again[name], whole[name]), f"{name} is another after going on"
    assert resumed["final"] == results["final"] and resumed["perplexity"] == results["perplexity"]
    assert [point["step"] for point in resumed["curve"]] == [3]
    monkeypatch.setattr(loop, "_step", lambda *_: pytest.fail("a training that is at its end takes a step"))
    assert trained(tmp_path, "killed")[1]["final"] == results["final"]
    loop.forget(tmp_path / "killed-work")
    assert not list((tmp_path / "killed-work").iterdir()), "the next training would go on from this one"


@pytest.mark.medium
def test_the_committed_adapter_stays_until_the_new_one_is_measured(tmp_path, monkeypatch):
    """Killed in a step, killed while the card is written, and then not: only the last leaves new files."""
    adapter, work = tmp_path / "adapters" / "smol-llava", tmp_path / "work"
    trained(tmp_path, "before")
    adapter.parent.mkdir()
    (tmp_path / "before").rename(adapter)
    older = {path.name: path.read_bytes() for path in adapter.iterdir()}
    for module in (program, making):
        monkeypatch.setattr(module, "WORK", work)
        monkeypatch.setattr(module, "read_gguf", lambda _: (tiny_smol.language_model(), tiny_smol.tokenizer()))
    (tmp_path / "licence").write_text("licence")
    given = contextlib.nullcontext((tmp_path / "gguf", tmp_path / "licence"))
    for module in (program, making):
        monkeypatch.setattr(module, "unpacked", lambda _: given)
    monkeypatch.setattr(program, "train", partial(loop.train, final_pairs=2))
    recipe = replace(RECIPE, seed=5)
    for where in ("step", "card", "nowhere"):
        with monkeypatch.context() as here:
            if where == "step":
                here.setattr(loop, "_step", _killed)
            here.setattr(program, "write_card", _killed if where == "card" else _card)
            with contextlib.nullcontext() if where == "nowhere" else pytest.raises(Killed):
                program.train_and_replace(None, recipe, CPU, adapter)
        now = {path.name: path.read_bytes() for path in adapter.iterdir()}
        assert (now == older) is (where != "nowhere"), f"killed at: {where}; the adapter that is committed is another"
        assert [path.name for path in adapter.parent.iterdir()] == ["smol-llava"]
    assert now["README.md"] == b"measured" and now[WEIGHTS] != older[WEIGHTS]
    assert {path.name for path in work.iterdir()} == {"lock", "training"}, "the next training would go on from this one"


def _killed(*_):
    raise Killed


def _card(folder, adapter):
    assert (folder / "model.safetensors").is_file(), "there is no model to measure"
    with pytest.raises(VlmtraceError, match="Another process trains smol-llava"):
        program.train_and_replace(None, RECIPE, CPU, adapter)  # would take up what is about to be moved away
    (adapter / "README.md").write_text("measured")


@pytest.mark.medium
def test_only_projector_and_adapter_change(tmp_path, monkeypatch):
    model, processor = assemble(tiny_smol.language_model(), tiny_smol.tokenizer())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loop.train(model, processor.tokenizer, RECIPE, tmp_path / "a", tmp_path / "w", CPU, final_pairs=2)
    for name, value in model.state_dict().items():
        if ".lora_" in name or "projector" in name:
            continue
        frozen = before[name.replace(".base_layer", "")]
        assert torch.equal(value.float(), frozen.to(value.dtype).float()), f"{name} was trained"
    moved = load_file(tmp_path / "a" / WEIGHTS)
    assert all(value.abs().max() > 0 for name, value in moved.items() if "lora_B" in name), "a factor was not trained"


@pytest.mark.medium
def test_batches_do_not_depend_on_who_renders_them():
    encoder, texts = Encoder(tiny_smol.tokenizer()), [[5, 6, 7], [8, 9]]
    alone = list(training_batches(RECIPE, encoder, texts, 1, workers=0))
    for workers, first in ((2, 1), (1, 3)):
        batches = list(training_batches(RECIPE, encoder, texts, first, workers))
        assert len(batches) == RECIPE.steps - first + 1
        for one, other in zip(alone[first - 1 :], batches, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


def test_steps_and_seeds_have_batches_of_their_own():
    encoder, texts = Encoder(tiny_smol.tokenizer()), [[5, 6, 7]]
    drawn = [
        training_batch(1, RECIPE, encoder, texts),
        training_batch(2, RECIPE, encoder, texts),
        training_batch(1, replace(RECIPE, seed=1), encoder, texts),
    ]
    pixels = [batch.pixels.numpy().tobytes() for batch in drawn]
    assert len(set(pixels)) == 3
    assert told_questions(1, RECIPE) != told_questions(2, RECIPE)


def test_merging_gives_the_model_that_was_trained(tmp_path):
    """Beside PEFT's own merge: the committed files hold all that was trained."""
    from peft.tuners.lora import LoraLayer

    model, _ = assemble(tiny_smol.language_model(), tiny_smol.tokenizer())
    parameters = attach(model, RECIPE)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.copy_(torch.randn(parameter.shape).half())
    loop.save_trained(parameters, RECIPE, tmp_path, digest_of_eyes(model))
    merged, _ = assemble(tiny_smol.language_model(), tiny_smol.tokenizer())
    merge(merged, tmp_path)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.merge()
    expected = {name.replace(".base_layer", ""): value for name, value in model.state_dict().items()}
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=f"{name} is not as PEFT merges it")
    config = json.loads((tmp_path / CONFIG).read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 4)


@pytest.mark.parametrize("broken", ["cut", "another", "one missing"])
def test_an_adapter_that_does_not_fit_is_refused(tmp_path, broken):
    model, _ = assemble(tiny_smol.language_model(), tiny_smol.tokenizer())
    loop.save_trained(attach(model, RECIPE), RECIPE, tmp_path, digest_of_eyes(model))
    if broken == "cut":
        content = (tmp_path / WEIGHTS).read_bytes()
        (tmp_path / WEIGHTS).write_bytes(content[: len(content) // 2])
    elif broken == "another":
        other, _ = assemble(tiny_smol.language_model(), tiny_smol.tokenizer())
        parameters = attach(other, RECIPE)
        wrong = {name: value[..., :-1] for name, value in parameters.items()}
        loop.save_trained(wrong, RECIPE, tmp_path, digest_of_eyes(other))
    else:
        (tmp_path / PROJECTOR).unlink()
    fresh, _ = assemble(tiny_smol.language_model(), tiny_smol.tokenizer())
    with pytest.raises(VlmtraceError, match="restore the committed file"):
        merge(fresh, tmp_path)


def test_a_checkpoint_of_other_settings_or_none_is_refused(tmp_path):
    model, _ = assemble(tiny_smol.language_model(), tiny_smol.tokenizer())
    parameters = attach(model, RECIPE)
    averaged = {name: value.detach().clone() for name, value in parameters.items()}
    optimizer = loop._optimizer(parameters, RECIPE)
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    path = tmp_path / loop.CHECKPOINT
    save_checkpoint(path, parameters, averaged, optimizer, Progress(1, 0.5), RECIPE)
    assert asdict(resume(path, parameters, averaged, optimizer, RECIPE)) == {"step": 1, "minutes": 0.5, "curve": []}
    with pytest.raises(VlmtraceError, match=r"other settings \(n_pairs, seed\)"):
        resume(path, parameters, averaged, optimizer, replace(RECIPE, n_pairs=3, seed=4))
    with pytest.raises(VlmtraceError, match="other questions or other texts"):
        resume(path, parameters, averaged, optimizer, RECIPE, "another mixture")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(VlmtraceError, match=r"cannot be read .*: remove it"):
        resume(path, parameters, averaged, optimizer, RECIPE)


def test_texts_of_another_seed_are_written_anew(tmp_path):
    model, processor = assemble(tiny_smol.language_model(), tiny_smol.tokenizer())
    kept = tmp_path / loop.TEXTS
    first = own_texts(model, processor.tokenizer, 0, kept)
    assert own_texts(model, processor.tokenizer, 0, kept) == first
    assert own_texts(model, processor.tokenizer, 1, kept) != first
    kept.write_text("[[1, 2]]")
    assert own_texts(model, processor.tokenizer, 0, kept) == first


def test_groups_are_held_against_both_bars():
    import pandas as pd

    rows = [("rendered_states", "color", True, True, number != 0) for number in range(10)]
    rows += [("rendered_svo", "verb", False, number > 0, True) for number in range(20)]
    table = pd.DataFrame(rows, columns=["task", "category", "seen_combination", "clean_right", "corrupt_right"])
    found = {row["group"]: row for row in summary(table.assign(both_right=table.clean_right & table.corrupt_right))}
    assert found["color"] == {"group": "color", "n": 10, "right": 0.95, "both": 0.9, "holds": True}
    assert found["verb"]["both"] == 0.95 and found["held out, rendered_svo"]["n"] == 20
    assert "held out, rendered_states" not in found
