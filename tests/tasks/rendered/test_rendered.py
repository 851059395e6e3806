"""The rendered world: true minimal pairs, honest masks, symmetric corruption, held-out combinations."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.tasks import rendered
from vlmtrace.tasks.rendered import faces, pairs, states, svo
from vlmtrace.tasks.rendered.questions import ask, place_of, value_of
from vlmtrace.tasks.rendered.words import (
    COLORS,
    EMOTIONS,
    HATS,
    NEITHER,
    NOUNS,
    OBJECTS,
    OPTIONS,
    SUBJECTS,
    SYNONYMS,
    TASKS,
    VERBS,
    is_held_out,
    n_tokens,
    replacements,
)
from vlmtrace.training.tokenizer import build_tokenizer

N = 42


@pytest.fixture(autouse=True)
def _raw(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "RAW", tmp_path)


@pytest.fixture(scope="module")
def drawn():
    """42 pairs of each task, with both images rendered."""
    found = {task: [pairs.sample(task, seed=7, index=index) for index in range(N)] for task in TASKS}
    return {task: [(pair, pair.clean.render(), pair.corrupt.render()) for pair in rows] for task, rows in found.items()}


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.png"))}


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_same_bytes(task, tmp_path, monkeypatch):
    runs = []
    for name in ("first", "second"):
        monkeypatch.setattr(pairs, "RAW", tmp_path / name)
        rendered.load(task, n=4, seed=3)
        runs.append(_digests(tmp_path / name))
    assert len(runs[0]) == 16, "4 pairs have 2 images and 2 masks each"
    assert runs[0] == runs[1], "the same seed drew other pictures"


def test_more_pairs_begin_with_the_same_ones_and_are_not_drawn_again(tmp_path):
    few = rendered.load("rendered_svo", n=4, seed=3)
    marked = next(tmp_path.rglob("00000-clean_image.png"))
    marked.write_bytes(b"left alone")
    many = rendered.load("rendered_svo", n=6, seed=3)
    assert many.head(4).equals(few), "the first pairs depend on how many are asked for"
    assert marked.read_bytes() == b"left alone", "a picture that exists was drawn again"


def test_incomplete_pairs_are_completed(tmp_path):
    rendered.load("rendered_faces", n=2, seed=3)
    before = _digests(tmp_path)
    next(tmp_path.rglob("00001-clean_object_mask.png")).unlink()
    rendered.load("rendered_faces", n=2, seed=3)
    assert _digests(tmp_path) == before


@pytest.mark.parametrize("task", TASKS)
def test_table(task):
    table = rendered.load(task, n=28, seed=0)
    cells = table.groupby(["category", "correct_first"]).size()
    assert set(table.category) == set(OPTIONS[task])
    assert cells.max() - cells.min() <= 1, f"categories × option orders are out of balance:\n{cells}"
    assert table.sample_id.is_unique
    for row in table.itertuples():
        first = row.correct_answer if row.correct_first else row.incorrect_answer
        second = row.incorrect_answer if row.correct_first else row.correct_answer
        prompt = row.clean_prompt
        assert 0 < prompt.index(f" {first} ") < prompt.rindex(f" {second}"), f"{prompt}: options out of order"
    for column in ("clean_image", "corrupt_image", "clean_object_mask", "clean_distractor_mask"):
        sizes = {Image.open(path).size for path in table[column]}
        assert sizes == {(96, 96)}, f"{column} has sizes {sizes}"


@pytest.mark.parametrize("task", TASKS)
def test_word_columns_are_words_of_the_prompt(task):
    table = rendered.load(task, n=12, seed=1)
    for row in table.to_dict("records"):
        for role in ("noun", "subject", "verb", "object"):
            word = row.get(role)
            if role == row["category"]:
                assert word is None or word != word, f"{role} is what the options replace"
            elif role in row:
                assert f" {word}" in row["clean_prompt"], f"{word!r} is not in {row['clean_prompt']!r}"


def test_unknown_names_are_refused():
    with pytest.raises(VlmtraceError, match="rendered_cats"):
        rendered.load("rendered_cats", n=1, seed=0)
    with pytest.raises(VlmtraceError, match="holdout"):
        rendered.load("rendered_svo", n=1, seed=0, split="holdout")


@pytest.mark.parametrize("task", TASKS)
def test_only_one_attribute_changes(task, drawn):
    for pair, _, _ in drawn[task]:
        attribute = "emotion" if task == "rendered_faces" else pair.category
        assert (value_of(pair.clean, attribute), value_of(pair.corrupt, attribute)) == pair.options
        assert pair.corrupt.with_value(attribute, pair.options[0]) == pair.clean, "something else changed as well"


def test_states_pairs_differ_on_the_asked_thing_only(drawn):
    for pair, clean, corrupt in drawn["rendered_states"]:
        touched = ndimage.binary_dilation((clean.mask(1) | corrupt.mask(1)) > 0, iterations=7)
        changed = (clean.pixels != corrupt.pixels).any(-1)
        assert not changed[~touched].any(), f"{pair.clean_prompt}: pixels away from the thing changed"
        assert changed.sum() >= 40, f"{pair.clean_prompt}: only {changed.sum()} pixels changed"
        assert (clean.parts == 2).sum() == (corrupt.parts == 2).sum(), "the distractor changed"


def test_faces_pairs_differ_on_the_face_only(drawn):
    for _, clean, corrupt in drawn["rendered_faces"]:
        changed = (clean.pixels != corrupt.pixels).any(-1)
        assert not changed[ndimage.binary_erosion(clean.mask(2) > 0)].any(), "the distractor changed"
        assert 100 < changed.sum() < 0.35 * changed.size


@pytest.mark.parametrize("task", TASKS)
def test_masks_cover_what_they_name(task, drawn):
    for pair, clean, _ in drawn[task]:
        target, distractor = clean.mask(*pair.object_parts), clean.mask(*pair.distractor_parts)
        assert set(np.unique(target)) == {0, 255}, "a mask holds 0 and 255"
        assert not (target & distractor).any(), "object and distractor overlap"
        assert (target > 0).sum() >= 70, f"{pair.clean_prompt}: the object has {(target > 0).sum()} pixels"
        assert (distractor > 0).sum() >= 70, f"{pair.clean_prompt}: the distractor has {(distractor > 0).sum()} pixels"


def test_things_have_the_color_that_they_are_said_to_have():
    rng = np.random.default_rng(0)
    palette = np.array(list(COLORS.values()), float)
    for color in COLORS:
        scene = states.sample_scene(rng, "color", (color, "red" if color != "red" else "blue"), "green", held_out=True)
        thing = replace(scene.things[0], texture="plain", shape="huge")
        image = replace(scene, things=(thing,)).render()
        mean = np.median(image.pixels[image.parts == 1] / scene.backdrop.light, axis=0)
        nearest = list(COLORS)[np.abs(palette - mean).sum(1).argmin()]
        assert nearest == color, f"a {color} {thing.noun} looks {nearest}"


def test_size_words_order_the_areas():
    rng = np.random.default_rng(0)
    scene = states.sample_scene(rng, "shape", ("tiny", "huge"), "tall", held_out=True)
    areas, boxes = {}, {}
    for shape in ("tiny", "huge", "tall", "wide"):
        mask = scene.with_value("shape", shape).render().parts == 1
        areas[shape] = mask.sum()
        rows, columns = ndimage.find_objects(mask.astype(int))[0]
        boxes[shape] = (rows.stop - rows.start) / (columns.stop - columns.start)
    assert areas["tiny"] * 3 < areas["huge"]
    assert boxes["tall"] > 1.5 and boxes["wide"] < 1 / 1.5, boxes


@pytest.mark.parametrize("task", TASKS)
def test_text_corruption_is_symmetric(task, drawn):
    tokenize = build_tokenizer().tokenize
    for pair, _, _ in drawn[task]:
        clean, corrupt = tokenize(pair.clean_prompt), tokenize(pair.corrupt_prompt)
        assert len(clean) == len(corrupt), f"{clean} / {corrupt}"
        words = [prompt.strip("?").split() for prompt in (pair.clean_prompt, pair.corrupt_prompt)]
        changed = [(a, b) for a, b in zip(*words, strict=True) if a != b]
        assert {a for a, _ in changed} == set(pair.options), f"other words than the options changed: {changed}"
        for option, replacement in changed:
            assert len(tokenize(option)) == len(tokenize(replacement))
            assert replacement not in words[0], f"{replacement} was in the question already"
            assert all(replacement not in SYNONYMS.get(word, ()) for word in pair.options)


def test_options_of_a_pair_never_share_their_first_token(drawn):
    tokenize = build_tokenizer().tokenize
    for rows in drawn.values():
        for pair, _, _ in rows:
            first, second = (tokenize(option)[0] for option in pair.options)
            assert first != second


def test_replacements_by_hand():
    assert replacements(("a", "b", "c"), ("a", "b")) == []
    assert replacements(("a", "b", "c", "d"), ("a", "b")) == [("c", "d"), ("d", "c")]
    assert replacements(VERBS[:4], ("kicking", "holding")) == [("lifting", "pushing"), ("pushing", "lifting")]
    # umbrella has two tokens and guitar is the only other object with two
    assert {first for first, _ in replacements(OBJECTS, ("umbrella", "ball"))} == {"guitar"}
    # small is a synonym of tiny
    assert replacements(("tiny", "huge", "small", "tall"), ("tiny", "huge")) == []


def test_some_words_split_and_every_word_is_known():
    tokenizer = build_tokenizer()
    for task in TASKS:
        for options in OPTIONS[task].values():
            for word in options:
                pieces = tokenizer.tokenize(word)
                assert len(pieces) == n_tokens(word) and "[UNK]" not in pieces, f"{word} becomes {pieces}"
    assert tokenizer.tokenize("kicking a triangle") == ["kick", "##ing", "a", "tri", "##angle"]
    assert tokenizer.unk_token not in tokenizer.tokenize("quizzically jumping"), "a lower-case word is unknown"


@pytest.mark.parametrize("task", TASKS)
def test_held_out_combinations_never_occur_in_training(task):
    def unseen(split: str) -> float:
        return 1 - np.mean([pairs.sample(task, 1, index, split).seen_combination for index in range(140)])

    assert unseen("train") == 0, "a held-out combination is in the train split"
    assert 0.1 < unseen("test") < 0.6, f"{unseen('test'):.0%} of test pairs show held-out combinations"


@pytest.mark.parametrize(
    ("partners", "values"),
    [(NOUNS, tuple(COLORS)), (EMOTIONS, HATS), (SUBJECTS, VERBS), (VERBS, OBJECTS)],
)
def test_every_word_has_training_partners(partners, values):
    table = np.array([[is_held_out(a, b) for b in values] for a in partners])
    assert 0.05 < table.mean() < 0.3
    assert (~table).sum(0).min() >= 3 and (~table).sum(1).min() >= 3, "a word is left with fewer than 3 partners"


def test_questions_are_answered_truly():
    rng = np.random.default_rng(0)
    scenes = [
        svo.sample_scene(rng, "verb", ("kicking", "holding")),
        faces.sample_scene(rng, ("sad", "happy")),
        states.sample_scene(rng, "color", ("red", "blue"), "blue"),
    ]
    neither = 0
    for scene in scenes:
        facts = {value for labels in scene.labels().values() for value in labels.values()}
        for _ in range(200):
            question = ask(rng, scene)
            neither += question.answer == NEITHER
            if question.kind == "location":
                assert question.answer == place_of(scene.things[question.part - 1])
            elif question.answer == NEITHER:
                options = question.prompt.strip("?").split(" or ")
                truth = scene.labels()[question.part].get(question.kind)
                assert all(truth != option.split()[-1] for option in options), question
            else:
                assert question.answer in facts, question
    assert 0.08 < neither / 600 < 0.25, f"{neither / 600:.0%} of the questions have no right option"


def test_open_questions():
    table = rendered.open_questions(30, seed=0)
    assert list(table.category.unique()) == ["color", "count", "location"]
    numbers = {"one": 1, "two": 2, "three": 3, "four": 4}
    for row in table.itertuples():
        mask = np.asarray(Image.open(row.object_mask)) > 0
        told = row.sentences if isinstance(row.sentences, str) else ""
        assert (f"The {row.noun} is {row.answer}." in told) == (row.category == "color"), "colors alone are told"
        assert row.noun in row.prompt.replace("?", "").split()
        if row.category == "count":
            _, n = ndimage.label(mask)
            assert n == numbers[row.answer], f"{row.prompt} {row.answer}, but the mask has {n} things"
        elif row.category == "location":
            y, x = np.argwhere(mask).mean(0) - 47.5
            side = {"left": -x, "right": x, "top": -y, "bottom": y}[row.answer]
            assert side > -3, f"the thing is not at the {row.answer}"
