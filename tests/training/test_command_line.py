"""What the commands that train refuse, before anything is trained or replaced; and what a card says of its start."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest

from vlmtrace.core import paths
from vlmtrace.training import __main__ as program
from vlmtrace.training import model_card, tiny_blip
from vlmtrace.training.planted import __main__ as planted
from vlmtrace.training.prior import __main__ as prior
from vlmtrace.training.recipe import RECIPES

BUNDLED = paths.MODELS


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """What was asked for: nothing is trained, and no bundled model is there to be replaced."""
    asked = []
    monkeypatch.setattr(program, "train", lambda *given: asked.append(given))
    monkeypatch.setattr(program, "MODELS", tmp_path / "models")
    monkeypatch.setattr(paths, "MODELS", tmp_path / "models")
    return asked


def refused(capsys, main, *arguments):
    """The sentence that a command ends with."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code != 0
    return capsys.readouterr().err + str(ended.value.code)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "-5"], "--steps is the number of batches: pass at least 1"),
        (["--steps", "0"], "--steps is the number of batches: pass at least 1"),
        (["--seed", "-1"], "--seed is a whole number that is not negative"),
        (["--seed", str(2**64)], "--seed is a whole number that is not negative, and at most"),
        (["--learning-rate", "0"], "--learning-rate is a number above 0"),
        (["--learning-rate", "nan"], "--learning-rate is a number above 0"),
        (["--start", "nowhere"], "no weights of tiny-blip can be read there, since there is no nowhere/config.json"),
    ],
)
def test_what_no_training_can_mean_is_said_and_nothing_is_trained(capsys, trained, arguments, said):
    assert said in refused(capsys, program.main, "tiny-blip", *arguments)
    assert not trained


@pytest.mark.parametrize("main", [prior.main, planted.main], ids=["prior", "planted"])
def test_a_negative_seed_is_refused_wherever_something_is_trained(capsys, monkeypatch, main):
    monkeypatch.setattr("sys.argv", ["command", "--seed", "-1"])
    with pytest.raises(SystemExit):
        main()
    assert "--seed is a whole number that is not negative" in capsys.readouterr().err


def test_another_model_and_damaged_weights_are_no_start(capsys, trained, tmp_path):
    said = refused(capsys, program.main, "tiny-blip", "--start", str(BUNDLED / "tiny-llava"))
    assert "it is of LlavaForConditionalGeneration, not of BlipForQuestionAnswering" in said
    damaged = tmp_path / "damaged"
    shutil.copytree(BUNDLED / "tiny-blip", damaged)
    (damaged / "model.safetensors").write_bytes(b"half of them")
    assert "no weights of tiny-blip can be read there" in refused(
        capsys, program.main, "tiny-blip", "--start", str(damaged)
    )
    (damaged / "config.json").write_text("{")
    assert "config.json is not" in refused(capsys, program.main, "tiny-blip", "--start", str(damaged))
    assert not trained


def test_tiny_llava_without_tiny_blip_is_a_sentence(capsys, trained):
    said = refused(capsys, program.main, "tiny-llava")
    assert "tiny-llava's vision encoder is fitted to tiny-blip's, and there are no weights in" in said and not trained


def test_a_folder_of_something_else_is_not_replaced(capsys, trained, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    said = refused(capsys, program.main, "tiny-blip", "--out", str(tmp_path))
    assert "holds something else than what would be written there" in said and not trained
    (tmp_path / "planted-chain-blip").mkdir()
    (tmp_path / "planted-chain-blip/notes.txt").write_text("mine")
    said = refused(capsys, planted.main, "planted-chain-blip", "--out", str(tmp_path))
    assert "holds something else than what would be written there" in said


def test_good_numbers_reach_the_training(trained, tmp_path):
    program.main(["tiny-blip", "--steps", "3", "--seed", "2", "--start", str(BUNDLED / "tiny-blip")])
    ((name, recipe, out),) = trained
    assert (name, recipe.steps, recipe.seed, out) == ("tiny-blip", 3, 2, tmp_path / "models/tiny-blip")
    assert recipe.learning_rate == RECIPES["tiny-blip"].learning_rate


@pytest.mark.parametrize(
    ("start", "said"), [("", ", from random weights."), ("some/folder", "from the weights in BEFORE")]
)
def test_a_card_says_what_the_training_began_with(start, said):
    scores = pd.DataFrame(
        [{"task": "t", "category": "c", "seen_combination": seen, "clean_right": True} for seen in (0, 1)]
    )
    scores["seen_combination"] = scores["seen_combination"].astype(bool)
    scores = scores.assign(corrupt_right=True, both_right=True, text_changed=True, says_neither=True)
    recipe = replace(RECIPES["tiny-blip"], start=start, steps=7, learning_rate=5e-4)
    opened = pd.DataFrame({"kind": ["color"], "right": [True]})
    card = model_card._card(tiny_blip, tiny_blip.build(0), recipe, 1.0, scores, opened, None)
    assert said in card and ("random weights" in card) == (not start)
    command = "python -m vlmtrace.training tiny-blip --steps 7 --seed 0 --learning-rate 0.0005"
    assert f"{command}{' --start BEFORE' if start else ''}\n" in card
    assert not start or start not in card, "a folder of this machine stands in the card"
