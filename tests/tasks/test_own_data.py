"""One's own data: the documentation's worked example, and what a CSV or folders may get wrong."""

import re
import time

import numpy as np
import pandas as pd
import pytest
from fixtures.pair_checks import check, count
from fixtures.raw_data import bomb_png, phone_folder, photograph, save
from PIL import Image, ImageOps

import vlmtrace as vt
from vlmtrace.core import paths
from vlmtrace.core.images import open_image
from vlmtrace.inputs.pair_rows import images_alone
from vlmtrace.tasks.building.image_files import image_problem
from vlmtrace.tasks.building.sampling import TEXT
from vlmtrace.tasks.building.token_replacement import Replacer
from vlmtrace.tasks.rendered import load

PAGE = (paths.ROOT / "docs" / "own-data.md").read_text()
COLUMNS = ["clean_image", "corrupt_image", "clean_prompt", "correct_answer", "incorrect_answer"]


def test_the_worked_example_of_the_documentation(tmp_path, monkeypatch):
    table, *_ = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    first, second, *_ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "pairs.csv").write_text(table)
    for i, row in enumerate(load("rendered_states", 5, 9).itertuples(), 1):
        save(open_image(row.clean_image), tmp_path / "shapes" / "images" / f"{i}.png")
    for label in ("red", "blue"):
        for i in range(3):
            save(photograph(turn=i + (label == "red") * 90 + 1), tmp_path / "colors" / label / f"{i}.png")
    (tmp_path / "colors" / "words.txt").write_text("green\nyellow\n\npink\n")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(first, names)
    prepared = names["prepared"]
    check(prepared, 4, counter=names["model"].count_tokens)
    assert prepared.filters["rows_in"].iloc[0] == 5
    assert prepared.set_aside[["row", "reason"]].values.tolist() == [
        ["row 6", "corrupt_image: the image file is missing"]
    ]
    assert len(names["evaluated"]) == 4
    exec(second, names)
    check(names["prepared"], 6, counter=names["model"].count_tokens)
    prompts = {"Is this circle red or blue?", "Is this circle blue or red?"}
    assert set(names["prepared"].pairs["clean_prompt"]) == prompts


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        save(photograph(turn=i + 1), tmp_path / "images" / f"{i}.png")
    return tmp_path


def row(i, a="cat", b="dog", **further):
    values = (f"images/{i}.png", f"images/{(i + 1) % 6}.png", f"a {a} or a {b}?", a, b)
    return dict(zip(COLUMNS, values, strict=True)) | further


def write(folder, *rows, **options):
    pd.DataFrame(rows).to_csv(folder / "mine.csv", index=False, **options)
    return folder / "mine.csv"


def test_what_stands_in_the_csv_is_kept(folder):
    save(Image.new("L", open_image(folder / row(0)["clean_image"]).size, 255), folder / "m.png")
    table = write(
        folder,
        row(0, sample_id="one", corrupt_prompt="a cow or a pig?", category="x", noun="cat", clean_object_mask="m.png"),
        row(1, "dog", "cat", sample_id="two", corrupt_prompt="a cow or a brown cow?", category="x"),
    )
    prepared = vt.prepare_pairs("csv", root=table, model=count)
    pair, other = sorted(prepared.pairs.to_dict("records"), key=lambda pair: pair["sample_id"])
    assert (pair["sample_id"], pair["category"], pair["noun"]) == ("one", "x", "cat")
    assert pair["clean_object_mask"] == str(folder / "m.png") and pair["task"] == "csv"
    assert prepared.set_aside["reason"].iloc[-1] == "clean_prompt and corrupt_prompt have unlike numbers of tokens"
    assert other["corrupt_prompt"] == other["clean_prompt"], "the other one can be run with its images alone"


def test_every_faulty_row_is_named(folder):
    table = write(
        folder,
        *(row(i, *words) for i, words in enumerate([("cat", "dog"), ("cow", "pig")])),
        *(row(i, *words) | {"clean_prompt": "a cat, a pig or a goat?"} for i, words in ((2, ("pig", "cat")),)),
        row(3, "goat", "pig", clean_prompt="a pig or a goat?"),
        row(4, correct_answer=""),
        row(4, correct_answer="dog"),
        row(4, correct_answer="horse"),
        row(4, clean_image="nowhere.png"),
    )
    prepared = vt.prepare_pairs("csv", root=table, model=count)
    check(prepared, 4)
    assert prepared.set_aside.set_index("row")["reason"].to_dict() == {
        "row 6": "correct_answer is empty",
        "row 7": "both answers are the same",
        "row 8": "the correct_answer does not stand in clean_prompt, but the other one does",
        "row 9": "clean_image: the image file is missing",
    }


def test_a_csv_that_cannot_be_used_is_one_sentence(folder):
    with pytest.raises(vt.VlmtraceError, match="has no column 'clean_prompt': rename 'clean_promt'"):
        misspelt = {name.replace("clean_prompt", "clean_promt"): value for name, value in row(0).items()}
        vt.load_pairs("csv", root=write(folder, misspelt))
    with pytest.raises(vt.VlmtraceError, match="holds sample_id 'a' more than once"):
        vt.load_pairs("csv", root=write(folder, row(0, sample_id="a"), row(1, sample_id="a")))
    (folder / "mine.csv").write_bytes(b"\xff\xfe\x00broken")
    with pytest.raises(vt.VlmtraceError, match="is not a readable CSV"):
        vt.load_pairs("csv", root=folder / "mine.csv")
    with pytest.raises(vt.VlmtraceError, match="There is nothing at"):
        vt.load_pairs("csv", root=folder / "other.csv")


def test_spreadsheets_write_a_mark_before_the_header(folder):
    table = write(folder, row(0), row(1, "cow", "pig"), encoding="utf-8-sig")
    assert len(vt.load_pairs("csv", root=table, model=count)) == 2
    assert table.read_bytes()[:3] == b"\xef\xbb\xbf"


@pytest.mark.parametrize("question", ["Is it {a}?", "Is it {a} or {c}?", "Is it {a} or {b} or {a}?", "What is it?"])
def test_a_question_needs_both_options(folder, question):
    with pytest.raises(vt.VlmtraceError, match=r"must hold \{a\} and \{b\} once each"):
        vt.load_pairs("folder", root=folder, question=question)


def test_labels_of_a_folder(tmp_path):
    """Names of several words; only labels of as many tokens can replace each other."""
    for place, label in enumerate(("traffic_light", "cat", "dog", "street_lamp", "cow", "horse")):
        for i in range(3):
            save(photograph(turn=10 * place + i + 1), tmp_path / label / f"{i}.jpg")
    prepared = vt.prepare_pairs("folder", root=tmp_path, model=count)
    check(prepared)
    assert {"cat", "dog", "cow", "horse"} <= set(prepared.pairs["correct_answer"])


def test_two_labels_need_further_words(tmp_path):
    for i, label in enumerate(("cat", "dog")):
        save(photograph(turn=40 * i + 1), tmp_path / label / "0.jpg")
    prepared = vt.prepare_pairs("folder", root=tmp_path, model=count)
    assert images_alone(prepared.pairs).all() and len(prepared.pairs) == 2, "image corruption needs no further words"
    reason = "no words of as many tokens under the tokenizer in use can replace"
    assert prepared.set_aside["step"].tolist() == [TEXT] * 2
    assert prepared.set_aside["reason"].str.startswith(reason).all()
    assert prepared.filters.set_index("step").loc[TEXT, ["rows_in", "rows_used"]].tolist() == [2, 0]
    (tmp_path / "words.txt").write_text("cow\npig\n")
    further = vt.load_pairs("folder", root=tmp_path, model=count)
    assert len(further) == 2 and not images_alone(further).any()


def test_a_replacement_takes_the_case_of_the_word_that_it_replaces():
    """Capitals of a table's answers must not make "Yellow or Red" of "blue or green"."""
    replacer = Replacer(None)
    generator = np.random.default_rng(0)
    for options, pool, shown in (
        (["blue", "green"], ["Yellow", "Red", "red"], str.islower),
        (["Blue", "Green"], ["yellow", "red"], str.istitle),
        (["BLUE", "GREEN"], ["yellow", "Red"], str.isupper),
    ):
        prompt = f"is it {options[0]} or {options[1]}?"
        words = replacer(prompt, options, [(pool, pool)], generator).removeprefix("is it ").rstrip("?").split(" or ")
        assert all(map(shown, words)), f"{options} became {words}"
        assert {word.lower() for word in words} == {"yellow", "red"}, f"one word in two cases counted twice: {words}"


def test_an_option_in_another_case_replaces_nothing():
    words = ["Red", "Blue", "yellow", "green"]
    corrupt = Replacer(None)("is it red or blue?", ["red", "blue"], [(words, words)], np.random.default_rng(0))
    assert {"yellow", "green"} <= set(corrupt.rstrip("?").split())


# Bombs


def test_a_bomb_is_refused_within_a_second_by_every_way_in(tmp_path):
    """A few kilobytes that would decode to 768 megabytes: by folders, a CSV, a table of pairs and a single image."""
    model = vt.load_model("tiny-blip")
    for place, label in enumerate(("cat", "dog", "cow", "pig")):
        for i in range(2):
            save(photograph(turn=10 * place + i + 1), tmp_path / label / f"{i}.png")
    bomb = bomb_png(tmp_path / "cat" / "bomb.png", 16_000)
    assert bomb.stat().st_size < 10_000
    pair = vt.load_pairs("folder", 1, root=tmp_path, model=count).iloc[[0]]
    pairs = pd.concat([pair, pair.assign(sample_id="bomb", clean_image=str(bomb))], ignore_index=True)
    start = time.monotonic()
    prepared = vt.prepare_pairs("folder", 99, root=tmp_path, model=count)
    usable, aside = vt.check_pairs(model, pairs)
    with pytest.raises(vt.VlmtraceError, match=r"bomb\.png cannot be used: the image has 256,000,000"):
        vt.one_question(bomb, "What is it?")
    assert time.monotonic() - start < 1, "the bomb was decoded"
    said = "the image has 256,000,000 pixels, more than 120,000,000"
    assert prepared.set_aside.set_index("row").loc["cat/bomb.png", "reason"] == said
    assert len(usable) == 1 and aside["sample_id"].tolist() == ["bomb"]
    assert "has 256,000,000 pixels, more than 120,000,000: save it smaller" in aside["reason"][0]


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "a\0b.png", "."])
def test_an_image_that_cannot_exist_is_missing(tmp_path, name):
    with pytest.raises(vt.VlmtraceError, match="cannot be used: the image file is missing"):
        vt.one_question(tmp_path / name, "What is it?")


# A telephone's folder


@pytest.fixture(scope="module")
def phone(tmp_path_factory):
    root = tmp_path_factory.mktemp("Fotos Ürlaub")
    return root, phone_folder(root)


def files_in(root):
    return [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")]


@pytest.mark.medium
def test_a_telephones_folder_is_accounted_for_to_the_last_file(phone):
    root, no_images = phone
    prepared = vt.prepare_pairs("folder", 99, root=root, question="Is this circle {a} or {b}?", model=count)
    check(prepared)
    assert prepared.filters["rows_in"].iloc[0] == len(files_in(root)), "a file is in no row"
    aside = prepared.set_aside.set_index("row")["reason"]
    assert aside[list(no_images)].to_dict() == no_images
    broken = aside[[row for row in aside.index if "8002" in row]]
    assert broken.str.startswith("the image cannot be read: image file is truncated").all()
    for name in ("*.heic", "Screenshot*"):
        (path,) = root.rglob(name)
        assert image_problem(path) is None
    assert "süße Katze" in set(prepared.pairs["correct_answer"]), "the label is not in the letters that people type"
    assert len(set(prepared.pairs["clean_image"]) | {str(root / row) for row in aside.index}) == len(files_in(root))


@pytest.mark.medium
def test_a_telephones_photographs_are_seen_upright(phone):
    """The two images of a pair of the same scene differ only in the circle, however the telephone was held."""
    root, _ = phone
    prepared = vt.prepare_pairs("folder", 99, root=root, question="Is this circle {a} or {b}?", model=count)
    taken = [path for path in prepared.pairs["clean_image"] if path.endswith("JPG")]
    turned = [path for path in taken if Image.open(path).getexif().get(0x0112) in (3, 6)]
    assert len(turned) > 5
    for path in turned:
        with Image.open(path) as lying:
            assert np.array_equal(open_image(path), ImageOps.exif_transpose(lying)), f"{path} lies on its side"
    model = vt.load_model("tiny-blip")
    evaluated = vt.evaluate(model, prepared.pairs[~prepared.pairs["clean_prompt"].str.contains("Katze")])
    assert evaluated["is_correct"].mean() > 0.9


@pytest.mark.parametrize("root", ["/dev/null", "/tmp/" + "x" * 300, "a\0b"])
@pytest.mark.parametrize("task", ["csv", "folder", "coco_qa"])
def test_a_root_that_is_no_place_is_a_sentence(task, root):
    with pytest.raises(vt.VlmtraceError, match=r"There is nothing at|neither a folder nor a file"):
        vt.prepare_pairs(task, root=root)
