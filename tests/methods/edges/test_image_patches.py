"""Patches of the image against forward passes whose image tokens are exchanged one by one."""

import weakref

import pytest
import torch

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display import Example
from vlmtrace.methods.edges import image_patch_effects, image_patches


@pytest.fixture(scope="module", params=["random_blip", "llava"])
def example(request, model_store, random_pairs):
    return Example(model_store.shared(request.param), random_pairs.iloc[0])


def test_a_set_of_patches_is_one_forward_pass(example):
    model, runs = example.model, example.runs("image")
    found = image_patch_effects(example, [[1], [1, 3, 4]])
    for positions, effect, answer in zip([[1], [1, 3, 4]], found.effects, found.answers, strict=True):
        tokens = model.image_embeddings(example.inputs("image")).clone()
        for position in positions:
            tokens[0, position] = model.image_embeddings(example.inputs())[0, position]
        with torch.no_grad():
            logits = model.answer_logits(example.inputs("image"), image=tokens)[0]
        correct, incorrect = runs.answer_ids[0].tolist()
        clean, corrupt = float(runs.clean_readout.logit_diff), float(runs.corrupt_readout.logit_diff)
        by_hand = (float(logits[correct] - logits[incorrect]) - corrupt) / (clean - corrupt)
        assert effect == pytest.approx(by_hand, abs=1e-3)
        assert answer == model.tokenizer.convert_ids_to_tokens([int(logits.argmax())])[0]


@pytest.mark.parametrize("name", ["random_blip", "llava"])
def test_answers_of_several_tokens_are_read_whole(model_store, random_pairs, name):
    """Token by token, each behind those before it: log p(correct) − log p(incorrect)."""
    model = model_store.shared(name)
    pair = random_pairs.iloc[1].to_dict() | {"correct_answer": "striped", "incorrect_answer": "strips"}
    example = Example(model, pair)
    runs = example.runs("image")
    assert runs.whole is not None, "this test needs an answer of several tokens"
    tokens = model.image_embeddings(example.inputs("image")).clone()
    tokens[0, [1, 3]] = model.image_embeddings(example.inputs())[0, [1, 3]]
    total = {}
    for which in ("correct", "contrast"):
        ids = getattr(runs.answers[0], which)
        total[which] = 0.0
        for i, token in enumerate(ids):
            given = example.inputs("image")
            if i:
                given = model.extend(given, torch.tensor([ids[:i]]))
            with torch.no_grad():
                logits = model.answer_logits(given, image=tokens)[0]
            total[which] += float(logits.log_softmax(-1)[token])
    clean, corrupt = float(runs.clean_readout.logit_diff), float(runs.corrupt_readout.logit_diff)
    by_hand = (total["correct"] - total["contrast"] - corrupt) / (clean - corrupt)
    assert image_patch_effects(example, [[1, 3]]).effects[0] == pytest.approx(by_hand, abs=2e-3)


def test_none_is_the_corrupt_run_and_all_are_the_clean_one(example):
    n = example.model.image_embeddings(example.inputs()).shape[1]
    assert image_patch_effects(example, [[], range(n)]).effects.tolist() == pytest.approx([0, 1], abs=1e-4)


def test_of_many_patches_the_logits_of_one_part_are_kept(example, monkeypatch):
    """A large model has thousands of patches and a hundred thousand tokens."""
    whole = image_patch_effects(example, [[0], [1], [2], [3, 1]])
    made, own = [], type(example.model).answer_logits

    def answer_logits(self, *arguments, **options):
        assert sum(logits() is not None for logits in made) <= 1, "logits of the parts before are kept"
        logits = own(self, *arguments, **options)
        made.append(weakref.ref(logits))
        return logits

    monkeypatch.setattr(type(example.model), "answer_logits", answer_logits)
    monkeypatch.setattr(image_patches, "AT_ONCE", 1)
    parts = image_patch_effects(example, [[0], [1], [2], [3, 1]])
    assert len(made) == 4 and parts.answers == whole.answers
    assert parts.effects == pytest.approx(whole.effects, abs=1e-4)


def test_what_cannot_be_put_in_is_said(example):
    with pytest.raises(VlmtraceError, match="There is no image position 999"):
        image_patch_effects(example, [[999]])
    alone = {name: example.pair[name] for name in ("clean_image", "clean_prompt")}
    with pytest.raises(VlmtraceError, match="has no corrupt run to patch"):
        image_patch_effects(Example(example.model, alone), [[0]])
