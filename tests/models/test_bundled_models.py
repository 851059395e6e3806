"""The bundled models, loaded as anybody would load them, on freshly rendered pairs that they were not trained on."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import vlmtrace as vt
from vlmtrace.core.paths import MODELS
from vlmtrace.inputs.batching import equal_length_batches
from vlmtrace.tasks.rendered import OPTIONS, TASKS, load, open_questions, pairs
from vlmtrace.tasks.rendered.questions import sentences
from vlmtrace.training import tiny_blip as blip
from vlmtrace.training import tiny_llava as llava
from vlmtrace.training.score import score_text

SEED = 20261
N = {"rendered_states": 360, "rendered_faces": 336, "rendered_svo": 360}
TRAINERS = {"tiny-blip": blip, "tiny-llava": llava}

#: Least share right on clean and corrupt images, and right on both.
BARS = dict.fromkeys(TASKS, (0.95, 0.9))
#: tiny-llava is at the bars, not above them, where it never saw who does what with what (see its card).
BORDERLINE = {("tiny-llava", "rendered_svo"): (0.92, 0.85)}
#: Least share of a category, and of unseen combinations.
CATEGORY, UNSEEN = {"tiny-blip": 0.9, "tiny-llava": 0.86}, {"tiny-blip": 0.85, "tiny-llava": 0.8}


@pytest.fixture(scope="module", params=TRAINERS)
def model(request):
    return vt.load_model(request.param)


def _generate(model, images, prompts) -> list[str]:
    """Greedy answers."""
    answers = pd.Series(index=range(len(prompts)), dtype=object)
    for rows in equal_length_batches(model, prompts, 64):
        texts = [model.prompt_text(prompts[row]) for row in rows]
        answers[rows] = model.generate(model.encode([images[row] for row in rows], texts))
    return answers.tolist()


@pytest.fixture(scope="module")
def answered(model, tmp_path_factory):
    """Pairs of all tasks with the answers to the clean image, the corrupt image, and the corrupt prompt."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "RAW", tmp_path_factory.mktemp("raw"))
        table = pd.concat([load(task, N[task], SEED) for task in TASKS], ignore_index=True)
    images, corrupt_images = table.clean_image.tolist(), table.corrupt_image.tolist()
    prompts, corrupt_prompts = table.clean_prompt.tolist(), table.corrupt_prompt.tolist()
    return table.assign(
        clean_right=np.array(_generate(model, images, prompts)) == table.correct_answer,
        corrupt_right=np.array(_generate(model, corrupt_images, prompts)) == table.incorrect_answer,
        text_changed=np.array(_generate(model, images, corrupt_prompts)) != table.correct_answer,
    ).assign(both_right=lambda t: t.clean_right & t.corrupt_right)


@pytest.mark.medium
@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_answered_nearly_perfectly(model, answered, task):
    least, least_both = BORDERLINE.get((model.name, task), BARS[task])
    rows = answered[answered.task == task]
    right = np.mean([rows.clean_right.mean(), rows.corrupt_right.mean()])
    assert len(rows) == N[task]
    assert right >= least, f"{task}: {right:.1%} right"
    assert rows.both_right.mean() >= least_both, f"{task}: {rows.both_right.mean():.1%} of pairs right on both sides"


@pytest.mark.medium
@pytest.mark.parametrize(("task", "category"), [(task, category) for task in TASKS for category in OPTIONS[task]])
def test_a_category_is_not_guessed(model, answered, task, category):
    rows = answered[(answered.task == task) & (answered.category == category)]
    clean, corrupt = rows.clean_right.mean(), rows.corrupt_right.mean()
    assert len(rows) == N[task] // len(OPTIONS[task])
    assert clean >= CATEGORY[model.name], f"{category}: {clean:.1%} of clean questions right"
    assert corrupt >= CATEGORY[model.name], f"{category}: {corrupt:.1%} of questions about the corrupt image right"


@pytest.mark.medium
@pytest.mark.parametrize("task", TASKS)
def test_both_option_orders_are_read(answered, task):
    by_order = answered[answered.task == task].groupby("correct_first").clean_right.mean()
    assert by_order.min() >= 0.9, f"{task}: {by_order.to_dict()}"


@pytest.mark.medium
@pytest.mark.parametrize("task", TASKS)
def test_replaced_options_change_the_answer(answered, task):
    changed = answered[answered.task == task].text_changed.mean()
    assert changed >= 0.8, f"{task}: the answer changes for {changed:.1%} of corrupt prompts"


@pytest.mark.medium
def test_combinations_never_seen_in_training_are_answered_too(model, answered):
    unseen = answered[~answered.seen_combination].groupby("task").clean_right.mean()
    assert len(unseen) == len(TASKS)
    assert unseen.min() >= UNSEEN[model.name], unseen.to_dict()


@pytest.mark.medium
def test_open_questions_about_colors(model, monkeypatch, tmp_path):
    monkeypatch.setattr(pairs, "RAW", tmp_path)
    table = open_questions(120, SEED)
    table["right"] = np.array(_generate(model, table.image.tolist(), table.prompt.tolist())) == table.answer
    right = table.groupby("category").right.mean()
    chance = {"color": 0.1, "count": 0.25, "location": 0.25}
    for kind, share in right.items():
        assert share >= chance[kind] + 0.2, f"{kind}: {share:.0%} right, which is near chance"


def test_the_training_forward_pass_is_the_models_own(model):
    trainer = TRAINERS[model.name]
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (1, 96, 96, 3), dtype=np.uint8))
    # Two questions on one image, padded to the common length.
    asked = ["Is this person feeling sad or happy?", "Is the girl kicking the umbrella or the box?"]
    with torch.no_grad():
        prompts = torch.tensor([[trainer.encode_prompt(prompt) for prompt in asked]])
        answers = torch.tensor([[trainer.encode_answer("sad"), trainer.encode_answer("umbrella")]])
        embeds = trainer.embed_images(model.hf, pixels)
        shared = trainer.answer_logits(model.hf, embeds, prompts, answers)[0, :, 0]
        image = Image.fromarray(pixels[0].numpy())
        own = [model.answer_logits(model.encode([image], [model.prompt_text(prompt)]))[0] for prompt in asked]
    assert (torch.stack(own) - shared).abs().max() < 1e-4


@pytest.mark.medium
def test_tiny_llava_answers_from_sentences_too():
    model = vt.load_model("tiny-llava").hf
    right = score_text(llava, model, 400, SEED)
    assert right is not None and right >= 0.95, f"{right:.1%} of questions about sentences right"


def test_sentences_tell_what_the_picture_shows():
    scene = pairs.sample("rendered_svo", 0, 0, "train").clean
    assert sentences(scene, "verb") == f"The {scene.subject} is {scene.verb} the {scene.object}."


@pytest.mark.parametrize("name", TRAINERS)
def test_the_files_are_few_and_small(name):
    files = {path.name: path.stat().st_size for path in (MODELS / name).iterdir()}
    assert sum(files.values()) < 20e6, files
    assert {"model.safetensors", "config.json", "processor_config.json", "tokenizer.json", "README.md"} <= set(files)
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]


@pytest.mark.parametrize("name", TRAINERS)
def test_the_card_holds_what_it_should(name):
    card = (MODELS / name / "README.md").read_text()
    for category in ("color", "shape", "texture", "subject", "verb", "object", *OPTIONS["rendered_faces"]):
        assert f"| {category} |" in card, f"the model card does not give the accuracy of {category}"
    assert f"python -m vlmtrace.training {name}" in card
