"""The bundled model, loaded as anybody would load it, on freshly rendered pairs that it was not trained on."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, BlipForQuestionAnswering

from vlmtrace.paths import MODELS
from vlmtrace.tasks.rendered import OPTIONS, TASKS, load, open_questions, pairs
from vlmtrace.training.blip import answer_logits, embed_images, encode_answer, encode_prompt

FOLDER = MODELS / "tiny-blip"
SEED = 20261
N = {"rendered_states": 360, "rendered_faces": 336, "rendered_svo": 360}


@pytest.fixture(scope="module")
def model():
    return BlipForQuestionAnswering.from_pretrained(FOLDER).eval()


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(FOLDER)


def _generate(model, processor, images, prompts) -> list[str]:
    """Greedy answers; prompts of equal length go together, since padding would be attended to."""
    lengths = pd.Series([len(processor.tokenizer(prompt).input_ids) for prompt in prompts])
    answers = pd.Series(index=lengths.index, dtype=object)
    for rows in lengths.groupby(lengths).groups.values():
        opened = [Image.open(images[row]).convert("RGB") for row in rows]
        inputs = processor(images=opened, text=[prompts[row] for row in rows], return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=6)
        answers[rows] = processor.batch_decode(ids, skip_special_tokens=True)
    return answers.tolist()


@pytest.fixture(scope="module")
def answered(model, processor, tmp_path_factory):
    """Pairs of all tasks with the answers to the clean image, the corrupt image, and the corrupt prompt."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "RAW", tmp_path_factory.mktemp("raw"))
        table = pd.concat([load(task, N[task], SEED) for task in TASKS], ignore_index=True)
    images, corrupt_images = table.clean_image.tolist(), table.corrupt_image.tolist()
    prompts, corrupt_prompts = table.clean_prompt.tolist(), table.corrupt_prompt.tolist()
    return table.assign(
        clean_right=np.array(_generate(model, processor, images, prompts)) == table.correct_answer,
        corrupt_right=np.array(_generate(model, processor, corrupt_images, prompts)) == table.incorrect_answer,
        text_changed=np.array(_generate(model, processor, images, corrupt_prompts)) != table.correct_answer,
    ).assign(both_right=lambda t: t.clean_right & t.corrupt_right)


@pytest.mark.parametrize("task", TASKS)
def test_at_least_95_percent_of_a_task_and_both_sides_of_90_percent_of_its_pairs(answered, task):
    rows = answered[answered.task == task]
    right = np.mean([rows.clean_right.mean(), rows.corrupt_right.mean()])
    assert len(rows) == N[task]
    assert right >= 0.95, f"{task}: {right:.1%} right"
    assert rows.both_right.mean() >= 0.9, f"{task}: {rows.both_right.mean():.1%} of pairs right on both sides"


@pytest.mark.parametrize(("task", "category"), [(task, category) for task in TASKS for category in OPTIONS[task]])
def test_at_least_90_percent_of_a_category(answered, task, category):
    rows = answered[(answered.task == task) & (answered.category == category)]
    clean, corrupt = rows.clean_right.mean(), rows.corrupt_right.mean()
    assert len(rows) == N[task] // len(OPTIONS[task])
    assert clean >= 0.9, f"{category}: {clean:.1%} of clean questions right"
    assert corrupt >= 0.9, f"{category}: {corrupt:.1%} of questions about the corrupt image right"


@pytest.mark.parametrize("task", TASKS)
def test_both_option_orders_are_read(answered, task):
    by_order = answered[answered.task == task].groupby("correct_first").clean_right.mean()
    assert by_order.min() >= 0.9, f"{task}: {by_order.to_dict()}"


@pytest.mark.parametrize("task", TASKS)
def test_replaced_options_change_the_answer(answered, task):
    changed = answered[answered.task == task].text_changed.mean()
    assert changed >= 0.8, f"{task}: the answer changes for {changed:.1%} of corrupt prompts"


def test_combinations_never_seen_in_training_are_answered_too(answered):
    unseen = answered[~answered.seen_combination].groupby("task").clean_right.mean()
    assert len(unseen) == len(TASKS)
    assert unseen.min() >= 0.85, unseen.to_dict()


def test_open_questions_about_colors(model, processor, monkeypatch, tmp_path):
    monkeypatch.setattr(pairs, "RAW", tmp_path)
    table = open_questions(120, SEED)
    table["right"] = (
        np.array(_generate(model, processor, table.image.tolist(), table.question.tolist())) == table.answer
    )
    right = table.groupby("kind").right.mean()
    chance = {"color": 0.1, "count": 0.25, "location": 0.25}
    for kind, share in right.items():
        assert share >= chance[kind] + 0.2, f"{kind}: {share:.0%} right, which is near chance"


def test_the_training_forward_pass_is_the_models_own(model, processor):
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (1, 96, 96, 3), dtype=np.uint8))
    prompt, answer = "Is the girl kicking the umbrella or the box?", "umbrella"
    inputs = processor(images=Image.fromarray(pixels[0].numpy()), text=prompt, return_tensors="pt")
    with torch.no_grad():
        decoder_ids = torch.tensor([encode_answer(answer)[:-1]])
        embeds = model.vision_model(inputs["pixel_values"]).last_hidden_state
        question = model.text_encoder(inputs["input_ids"], encoder_hidden_states=embeds).last_hidden_state
        own = model.text_decoder(decoder_ids, encoder_hidden_states=question).logits
        # Two questions on one image, the second one padded to the common length.
        prompts = torch.tensor([[encode_prompt("Is this person feeling sad or happy?"), encode_prompt(prompt)]])
        answers = torch.tensor([[encode_answer("sad"), encode_answer(answer)]])
        shared = answer_logits(model, embed_images(model, pixels), prompts, answers)[0, 1]
    assert (own[0] - shared).abs().max() < 1e-4


def test_the_files_are_few_and_small():
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert sum(files.values()) < 20e6, files
    assert {"model.safetensors", "config.json", "processor_config.json", "tokenizer.json", "README.md"} <= set(files)
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]


def test_the_card_holds_what_it_should():
    card = (FOLDER / "README.md").read_text()
    for category in ("color", "shape", "texture", "subject", "verb", "object", *OPTIONS["rendered_faces"]):
        assert f"| {category} |" in card, f"the model card does not give the accuracy of {category}"
    assert "python -m vlmtrace.training tiny-blip" in card
