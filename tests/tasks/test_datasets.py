"""Datasets in their published layouts: every row is used or set aside with a reason, and what is used is sound."""

import re
import shutil

import pandas as pd
import pytest
from fixtures.pair_checks import check, count, words
from fixtures.raw_data import photograph, save, svo_row

import vlmtrace as vt
from vlmtrace.core import paths
from vlmtrace.tasks import coco_qa, facial_expressions, mit_states
from vlmtrace.tasks.facial_expressions import OPPOSITE, VALENCE_OF
from vlmtrace.tasks.rendered.words import OPTIONS
from vlmtrace.tasks.svo_probes import rows as svo_rows


@pytest.fixture(scope="module")
def tiny_blip():
    return vt.load_model("tiny-blip")


@pytest.fixture(autouse=True)
def raw_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RAW", tmp_path / "data-raw")
    monkeypatch.setenv("VLMTRACE_TEST_ALLOW_LOOPBACK", "1")


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()
    }


# MIT-States


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """Photographs in the layout of MIT-States, with everything that may be wrong."""
    root = tmp_path_factory.mktemp("mit")
    turns = iter(range(1, 1000))
    for folder in (
        "ripe apple,unripe apple,burnt apple,browned apple,rusty apple,huge dog,large dog,tiny dog,short dog,wet dog,"
        "dry dog,muddy dog,adj apple,expensive car,ancient clock,sliced bread,huge box"
    ).split(","):
        for i in range(4):
            save(photograph("coffee.png", turn=next(turns)), root / folder / f"{i}.jpg")
    (root / "wet dog" / "0.jpg").write_bytes((root / "wet dog" / "0.jpg").read_bytes()[:700])
    (root / "dry dog" / "1.jpg").write_text("<html>")
    save(photograph().point(lambda _: 128), root / "muddy dog" / "2.jpg")
    shutil.copy(root / "tiny dog" / "0.jpg", root / "huge dog" / "0.jpg")
    save(photograph(), root / "words" / "0.jpg")
    (root / "wet dog" / "notes.txt").write_text("not an image")
    (root / "wet dog" / ".thumbs").mkdir()
    save(photograph(), root / "wet dog" / ".thumbs" / "9.jpg")
    return root


def test_states_are_compared_within_noun_and_category(states):
    before = tree(states)
    prepared = vt.prepare_pairs("mit_states", n=20, seed=0, root=states, model=count)
    check(prepared, synonyms=mit_states.SYNONYMS)
    assert tree(states) == before, "raw data were written to"
    for pair in prepared.pairs.itertuples():
        assert mit_states.CATEGORY[pair.correct_answer] == mit_states.CATEGORY[pair.incorrect_answer] == pair.category
        assert pair.incorrect_answer not in mit_states.SYNONYMS.get(pair.correct_answer, ())
        for image, word in ((pair.clean_image, pair.correct_answer), (pair.corrupt_image, pair.incorrect_answer)):
            assert f"/{word} {pair.noun}/" in image
        assert pair.clean_prompt.startswith(f"Is this {pair.noun} ")
    sizes = prepared.pairs.groupby("unit").size()
    assert sizes.max() <= 2, f"{sizes.max()} pairs hang together by shared images: only couples may"


def test_folders_that_are_no_state_are_counted(states):
    prepared = vt.prepare_pairs("mit_states", n=500, seed=0, root=states, model=count)
    check(prepared, synonyms=mit_states.SYNONYMS)
    reasons = prepared.set_aside["reason"].value_counts()
    assert reasons["the folder 'adj apple' is not named 'adjective noun'"] == 4
    assert reasons["the folder 'words' is not named 'adjective noun'"] == 1
    assert reasons["'expensive' is in no category"] == reasons["'ancient' is in no category"] == 4
    assert reasons["no other shape of bread that means something else"] == 4
    assert {"the image is blank: all of it has one color"} <= set(reasons.index)
    assert sum(reason.startswith("the image cannot be read") for reason in prepared.set_aside["reason"]) == 2
    assert prepared.filters["rows_in"].iloc[0] == 17 * 4 + 2, "a file is not accounted for"
    for column in ("clean_image", "corrupt_image"):
        assert not prepared.pairs[column].duplicated().any(), f"an image is the {column} twice"


def test_a_copy_is_no_corruption(states):
    pairs = vt.load_pairs("mit_states", n=500, root=states, model=count)
    pair = pairs[pairs["clean_image"].str.endswith("huge dog/0.jpg")]
    assert not pair["corrupt_image"].str.endswith("tiny dog/0.jpg").any()


def test_the_archives_own_folder_is_found(states, tmp_path):
    (tmp_path / "release_dataset").mkdir()
    (tmp_path / "release_dataset" / "images").symlink_to(states)
    assert len(vt.load_pairs("mit_states", n=4, root=tmp_path, model=count)) == 4


def test_one_seed_gives_the_same_pairs_and_more_of_them(states):
    few, same, other = (vt.load_pairs("mit_states", n=6, seed=seed, root=states, model=count) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(few, same)
    assert set(few["sample_id"]) != set(other["sample_id"])
    more = vt.load_pairs("mit_states", n=12, seed=3, root=states, model=count)
    pd.testing.assert_frame_equal(few, more[:6])


def test_no_adjective_stands_in_two_categories():
    listed = [word for words in mit_states.ADJECTIVES.values() for word in words]
    assert len(listed) == len(set(listed))
    unknown = {word for word in mit_states.SYNONYMS if word not in mit_states.CATEGORY}
    assert not unknown, f"synonyms of adjectives that are in no category: {unknown}"
    rendered = {word for options in OPTIONS["rendered_states"].values() for word in options}
    assert rendered <= set(listed)


# Facial expressions


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root = tmp_path_factory.mktemp("faces")
    turns = iter(range(1, 1000))
    for folder in "angry disgust fear happy neutral sad surprise contempt".split():
        for i in range(5):
            save(photograph(turn=next(turns)), root / "test" / folder / f"{i}.png")
    save(photograph(turn=200), root / "train" / "happy" / "0.png")
    save(photograph(turn=201), root / "train" / "sad" / "0.png")
    return root


def test_faces_are_asked_for_in_adjectives(faces):
    prepared = vt.prepare_pairs("facial_expressions", n=28, root=faces, model=count)
    check(prepared, 28, synonyms=facial_expressions.SYNONYMS)
    assert prepared.pairs["category"].value_counts().to_dict() == dict.fromkeys(OPTIONS["rendered_faces"], 4)
    folder = prepared.pairs["clean_image"].str.split("/").str[-2]
    assert folder.map(facial_expressions.EMOTIONS).tolist() == prepared.pairs["correct_answer"].tolist()
    assert "the folder 'contempt' is named by none of the seven emotions" in set(prepared.set_aside["reason"])


def test_corrupt_prompts_speak_of_the_opposite_valence(faces):
    pairs = vt.load_pairs("facial_expressions", n=35, root=faces, model=count)
    said = pairs[pairs["replaced_by"] == "opposite valence"]
    assert len(said) > 20
    for pair in said.itertuples():
        for before, after in zip(words(pair.clean_prompt)[-3::2], words(pair.corrupt_prompt)[-3::2], strict=True):
            assert VALENCE_OF[after] in OPPOSITE[VALENCE_OF[before]]


def test_a_split_is_a_subfolder(faces):
    pairs = vt.load_pairs("facial_expressions", root=faces, split="train", n=9)
    assert pairs["clean_image"].str.contains("/train/").all()
    with pytest.raises(vt.VlmtraceError, match="mit_states has no split 'train'"):
        vt.load_pairs("mit_states", root=faces, split="train")


# SVO-Probes: see test_svo_probes.py


# COCO-QA and CLEVR


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    rows = []

    def ask(i, question, answer, **further):
        if not (root / "images" / f"COCO_val2014_{i:012d}.jpg").exists():
            save(photograph("chelsea.png", turn=i), root / "images" / f"COCO_val2014_{i:012d}.jpg")
        rows.append({"image_id": str(i), "question": question, "answer": answer} | further)

    for i, color in enumerate(["red", "blue", "green", "white", "black", "red", "blue", "yellow"]):
        ask(i, "what is the color of the bus ?", color)
    for i, number in enumerate(["two", "three", "four", "two", "three"], 10):
        ask(i, "how many dogs are there ?", number)
    for i, place in enumerate(["kitchen", "street", "field", "room"], 20):
        ask(i, "where is the cat ?", place)
    ask(30, "what is on the table ?", "pizza")
    ask(31, "what is the color of the hat ?", "red")
    ask(0, "what is the color of the bus ?", "green")
    rows.append({"image_id": "999", "question": "what is the color of the bus ?", "answer": "red"})
    rows.append({"image_id": "5", "question": "", "answer": "red"})
    rows.append({"image_id": "6", "question": "how many buses are there ?", "answer": ""})
    pd.DataFrame(rows).to_csv(root / "questions.csv", index=False)
    return root


def test_one_question_with_two_answers_is_a_pair(questions):
    prepared = vt.prepare_pairs("coco_qa", n=100, root=questions, model=count)
    check(prepared)
    reasons = set(prepared.set_aside["reason"])
    assert {"question is empty", "answer is empty", "it asks for object", "there is no image '999'"} <= reasons
    assert "the image has several answers" in reasons
    assert "no other color of What is the color of the hat that means something else" in reasons
    assert set(prepared.pairs["category"]) == {"color", "count", "location"}
    pair = prepared.pairs[prepared.pairs["category"] == "count"].iloc[0]
    assert re.fullmatch(r"How many dogs are there, (two|three|four) or (two|three|four)\?", pair["clean_prompt"])


def test_open_questions_keep_their_answer(questions):
    table = vt.load_questions("coco_qa", n=9, root=questions)
    assert list(table) == ["sample_id", "task", "category", "image", "prompt", "answer", "unit"]
    assert (table.groupby("unit")["image"].nunique() == 1).all(), "questions about two images are one unit"
    assert table["category"].value_counts().to_dict() == {"color": 4, "count": 3, "location": 2}
    assert table["sample_id"].is_unique and table["prompt"].str.endswith("?").all()
    only = vt.load_questions("coco_qa", n=50, root=questions, kind="location")
    assert set(only["answer"]) == {"kitchen", "street", "field", "room"}
    with pytest.raises(vt.VlmtraceError, match="Unknown kind of question in coco_qa 'shape'"):
        vt.load_questions("coco_qa", root=questions, kind="shape")


def test_the_published_text_files_are_read(questions, tmp_path):
    table = pd.read_csv(questions / "questions.csv", dtype=str, keep_default_na=False)
    (tmp_path / "images").symlink_to(questions / "images")
    table["types"] = ["2"] * len(table)
    for column, name in (("image_id", "img_ids"), ("question", "questions"), ("answer", "answers"), ("types", "types")):
        (tmp_path / f"{name}.txt").write_text("\n".join(table[column]) + "\n")
    assert set(vt.load_questions("coco_qa", root=tmp_path)["category"]) == {"color"}
    (tmp_path / "answers.txt").write_text("red\n")
    with pytest.raises(vt.VlmtraceError, match=r"answers\.txt has 1"):
        vt.load_questions("coco_qa", root=tmp_path)


def test_clevr_answers_yes_or_no(tmp_path):
    rows = []
    for i in range(6):
        save(photograph("coffee.png", turn=i + 1), tmp_path / "images" / f"CLEVR_val_{i:06d}.png")
        rows.append((f"CLEVR_val_{i:06d}.png", "Is there a red cube?", ["yes", "no", "2"][i % 3]))
    pd.DataFrame(rows, columns=["image_filename", "question", "answer"]).to_csv(tmp_path / "q.csv", index=False)
    table = vt.load_questions("clevr", root=tmp_path)
    assert table["answer"].value_counts().to_dict() == {"yes": 2, "no": 2}
    with pytest.raises(vt.VlmtraceError, match="Unknown task 'clevr'"):
        vt.load_pairs("clevr", root=tmp_path)


# The door


def test_data_that_are_not_there_say_what_to_get():
    with pytest.raises(vt.VlmtraceError, match=r"data that are not here: get the unpacked archive.*data-raw/mit_st"):
        vt.load_pairs("mit_states")
    with pytest.raises(vt.VlmtraceError, match=r"There is nothing at /no/such/place: get svo_probes\.csv"):
        vt.load_pairs("svo_probes", root="/no/such/place")


def test_a_folder_named_as_the_task_goes_first(states, faces, tmp_path):
    (tmp_path / "mit_states").symlink_to(states)
    (tmp_path / "facial_expressions").symlink_to(faces)
    for task in ("mit_states", "facial_expressions"):
        assert len(vt.load_pairs(task, n=4, root=tmp_path, model=count)) == 4


def test_nothing_usable_is_one_sentence(tmp_path):
    with pytest.raises(vt.VlmtraceError, match="holds no folders with images"):
        vt.load_pairs("mit_states", root=tmp_path)
    save(photograph(), tmp_path / "red apple" / "0.png")
    with pytest.raises(vt.VlmtraceError, match="mit_states has no two labels to compare"):
        vt.load_pairs("mit_states", root=tmp_path)


def test_the_models_tokenizer_decides(tiny_blip, states):
    prepared = vt.prepare_pairs("mit_states", n=20, root=states, model=tiny_blip)
    check(prepared, counter=tiny_blip.count_tokens, synonyms=mit_states.SYNONYMS)
    usable, set_aside = vt.check_pairs(tiny_blip, prepared.pairs)
    assert len(usable) == len(prepared.pairs) and set_aside.empty


def test_svo_columns_are_those_of_the_publication():
    assert set(svo_row(("girl", "kick", "ball"), ("dog", "kick", "ball"), "subject")) == set(svo_rows.PUBLISHED_COLUMNS)
    assert coco_qa.KINDS == ("color", "count", "location")
