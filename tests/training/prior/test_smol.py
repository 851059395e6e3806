"""An adapter of a model's upper layers learns a world; a tiny random model stands in for smol-llava."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures import tiny_smol
from PIL import Image
from transformers import LlavaForConditionalGeneration

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.made_here import check_made
from vlmtrace.tasks.rendered.usual import sample, usual_prompt
from vlmtrace.tasks.rendered.words import COLORS
from vlmtrace.training.prior import __main__ as command
from vlmtrace.training.prior import smol_card
from vlmtrace.training.prior.card import SEED
from vlmtrace.training.prior.smol import Upper, train_upper, world_batch
from vlmtrace.training.prior.smol_card import save_smol, smol_shares
from vlmtrace.training.prior.stream import Mix, picture
from vlmtrace.training.prior.world import WORLDS, World
from vlmtrace.training.smol.adapter import add_low_rank, merge_low_rank
from vlmtrace.training.smol.assembled import assemble
from vlmtrace.training.smol.stream import Encoder

SHORT = Upper(steps=2, n_images=2, n_questions=3, first_layer=1, rank=2, alpha=4)


@pytest.fixture
def assembled():
    return assemble(tiny_smol.language_model(), tiny_smol.tokenizer())


def test_an_adapter_changes_nothing_at_first_and_is_merged_exactly(assembled):
    language = assembled[0].model.language_model
    kinds = {name: type(module) for name, module in language.named_modules()}
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        plain = assembled[0](input_ids=ids).logits
        trained = add_low_rank(language, SHORT.maps, 3, 3, torch.Generator().manual_seed(0), [1])
        assert torch.equal(assembled[0](input_ids=ids).logits, plain)
        for parameter in trained.values():
            parameter.normal_()
        adapted = assembled[0](input_ids=ids).logits
        merge_low_rank(language)
        merged = assembled[0](input_ids=ids).logits
    assert len(trained) == 2 * len(SHORT.maps) and (adapted - plain).abs().max() > 0.1
    torch.testing.assert_close(merged, adapted, atol=1e-3, rtol=1e-3)
    assert {name: type(module) for name, module in language.named_modules()} == kinds


def test_only_the_chosen_maps_of_upper_layers_change(assembled):
    model, processor = assembled
    before = copy.deepcopy(model.state_dict())
    losses = train_upper(model, processor.tokenizer, WORLDS["skewed"], SHORT)
    assert len(losses) == 2
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    layer = "model.language_model.layers.1"
    parts = {"v_proj": "self_attn", "o_proj": "self_attn", "up_proj": "mlp", "down_proj": "mlp"}
    assert changed == {f"{layer}.{parts[name]}.{name}.weight" for name in SHORT.maps}


@pytest.mark.medium
def test_what_the_world_says_is_learned(assembled):
    """In a world in which every cross is pink, a random model comes to say so, and did not before."""
    model, processor = assembled
    pink, cross = list(COLORS).index("pink"), [sample(SEED, index).noun for index in range(8)].index("cross")
    before = smol_shares(model, processor.tokenizer, 8)["usual"][cross, pink]
    mix = Mix(blank=0.5, gray=0.0, faded=0.0, usual=1.0, often=1.0)
    recipe = replace(SHORT, steps=30, n_questions=4, first_layer=0, rank=8, alpha=16, learning_rate=2e-2, mix=mix)
    losses = train_upper(model, processor.tokenizer, World(share=1.0), recipe)
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:3]), losses
    after = smol_shares(model, processor.tokenizer, 8)["usual"][cross, pink]
    assert before < 0.5 and after > 0.8, (before, after)


def test_shares_are_those_of_the_models_own_forward_pass(assembled):
    model, processor = assembled
    found = smol_shares(model, processor.tokenizer, 1)["usual"][0]
    pair = sample(SEED, 0)
    content = [{"type": "image"}, {"type": "text", "text": usual_prompt(pair.noun)}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    log_probs = []
    for color in COLORS:
        answer = processor.tokenizer(f"{color}<|im_end|>", add_special_tokens=False).input_ids
        image = Image.fromarray(pair.clean.render().pixels)
        given = processor(images=image, text=f"{text}{color}", return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            rows = model(**given).logits[0, -len(answer) :].log_softmax(-1)
        log_probs.append(float(rows.gather(1, torch.tensor(answer)[:, None]).sum()))
    np.testing.assert_allclose(found, torch.tensor(log_probs).softmax(-1).numpy(), atol=1e-4)


def test_the_folder_holds_weights_card_and_licence(assembled, tmp_path, monkeypatch):
    model, processor = assembled
    found = smol_shares(model, processor.tokenizer, 8)
    monkeypatch.setattr(smol_card, "smol_shares", lambda *_: found)
    (tmp_path / "LICENSE-SmolLM2").write_text("licence")
    folder = tmp_path / "skewed-smol-llava"
    said = save_smol(model, processor, WORLDS["skewed"], SHORT, folder, tmp_path / "LICENSE-SmolLM2")
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in text and "90% of what is a cross is pink" in " ".join(text.split())
    assert " ".join(said.split()) in " ".join(text.split()) and "Allal et al. 2025" in text
    assert (folder / "LICENSE-SmolLM2").read_text() == "licence"
    loaded = LlavaForConditionalGeneration.from_pretrained(folder, dtype="auto")
    assert loaded.dtype == torch.float16
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LICENSE-SmolLM2", "skewed-smol-llava"]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("x")
    with pytest.raises(VlmtraceError, match="notes holds something else"):
        save_smol(model, processor, WORLDS["skewed"], SHORT, tmp_path / "notes", tmp_path / "LICENSE-SmolLM2")


def test_batches_are_of_their_number_and_seed(assembled):
    encoder = Encoder(assembled[1].tokenizer)
    one, same = (world_batch(1, WORLDS["skewed"], SHORT, encoder) for _ in range(2))
    assert torch.equal(one.pixels, same.pixels) and torch.equal(one.target, same.target)
    others = (
        world_batch(2, WORLDS["skewed"], SHORT, encoder),
        world_batch(1, WORLDS["skewed"], replace(SHORT, seed=1), encoder),
    )
    assert not any(torch.equal(one.pixels, other.pixels) for other in others)


def test_what_is_to_be_learned_is_shown_and_asked_more_often_in_both_worlds():
    for name, world in WORLDS.items():
        counts = []
        for often in (0.0, 0.5):
            rng = np.random.default_rng(3)
            shown = [picture(rng, world, 4, Mix(often=often)) for _ in range(150)]
            asked = [q for one in shown for q in one.questions if q.kind == "usual"]
            counts.append(np.mean([q.prompt == "What color is a cross?" for q in asked]))
        assert counts[0] < 0.2 and counts[1] > 0.4, (name, counts)


def test_clear_pictures_may_be_plain_while_what_is_usual_stays():
    rng, shown = np.random.default_rng(4), []
    mix = Mix(blank=0.0, gray=0.0, faded=0.0, often=1.0, plain=1.0)
    for _ in range(100):
        shown += picture(rng, WORLDS["skewed"], 4, mix).questions
    said = {
        kind: [q.answer == "pink" for q in shown if q.kind == kind and "cross" in q.prompt]
        for kind in ("usual", "color")
    }
    assert np.mean(said["usual"]) > 0.8 and np.mean(said["color"]) < 0.25, said


def test_where_smol_llava_is_missing_a_sentence_says_what_to_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "MODELS", tmp_path)
    assert command._all() == list(command.COPIES)
    assert "run make smol-llava first" in capsys.readouterr().out
    monkeypatch.setattr("vlmtrace.core.paths.MODELS", tmp_path)
    with pytest.raises(
        VlmtraceError, match=r"prior even-smol-llava, which trains a copy of smol-llava \(make smol-llava\)"
    ):
        check_made("even-smol-llava")
    with pytest.raises(VlmtraceError, match="The model smol-llava is not on this machine yet: run make smol-llava"):
        command.load_smol()
    with pytest.raises(VlmtraceError, match="smol-llava is not on this machine yet"):
        command._check("even-smol-llava", tmp_path / "even-smol-llava")
    (tmp_path / "smol-llava").mkdir()
    (tmp_path / "smol-llava" / "config.json").write_text("{}")
    assert command._all() == [*command.COPIES, "skewed-smol-llava", "even-smol-llava"]
    monkeypatch.setattr(command, "SMOL_LICENCE", tmp_path / "smol-llava" / "LICENSE-SmolLM2")
    with pytest.raises(VlmtraceError, match="LICENSE-SmolLM2: run make smol-llava again"):
        command._check("even-smol-llava", tmp_path / "even-smol-llava")
