"""Folders of labels in the layouts in which collections unpack, and an account of every file in them."""

import os

import pytest
from fixtures.pair_checks import check, count
from fixtures.raw_data import photograph, save

import vlmtrace as vt
from vlmtrace.tasks.building.folder_layouts import FILE, PLACED
from vlmtrace.tasks.facial_expressions import EMOTIONS, RAF_DB, emotion_of

EMOTION_WORDS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")


@pytest.fixture
def fill(tmp_path):
    """Fill folders with two photographs each; no two are alike."""
    turns = iter(range(1, 360))

    def into(*folders, name="{}.jpg"):
        for folder in folders:
            for i in range(2):
                save(photograph(turn=next(turns)), tmp_path / folder / name.format(i))
        return tmp_path

    return into


def every_file(root):
    found = [name for _, folders, names in os.walk(root, followlinks=False) for name in names if name[0] != "."]
    return len(found)


def prepared_of(task, root, **options):
    prepared = vt.prepare_pairs(task, 4, root=root, model=count, **options)
    check(prepared)
    first = prepared.filters.iloc[0]
    assert (first["step"], first["unit"]) == (FILE, "files")
    assert first["rows_in"] == every_file(root), "a file is in no row"
    return prepared


def folders_of(prepared):
    return {path.rsplit("/", 2)[-2] for path in prepared.pairs["clean_image"]}


# Splits and wrapping folders


LAYOUTS = {
    "labels in the root": ("{}", {}),
    "split in lower case": ("test/{}", {}),
    "split in capitals": ("Test/{}", {}),
    "an archive's folder": ("DATASET/{}", {}),
    "an archive's folder and a split": ("DATASET/test/{}", {}),
    "two wrapping folders": ("archive/images/Test/{}", {}),
    "another split": ("Train/{}", {"split": "train"}),
    "validation": ("validation/{}", {"split": "val"}),
    "valid": ("valid/{}", {"split": "val"}),
    "only validation is held out": ("val/{}", {}),
    "a set": ("val_set/{}", {}),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(
    ("task", "labels"),
    [("facial_expressions", EMOTION_WORDS), ("folder", ("cat", "dog", "cow", "pig"))],
)
def test_folders_of_labels_are_found(fill, task, labels, name):
    layout, options = LAYOUTS[name]
    root = fill(*(layout.format(label) for label in labels))
    if name != "labels in the root":
        (root / "README.txt").write_text("read me")
    split = layout.split("/")[-2] if "/" in layout else ""
    other = "train" if split.lower() != "train" else "test"
    if split and split != "DATASET":
        fill(*(layout.replace(split, other).format(label) for label in labels[:2]))
    prepared = prepared_of(task, root, **options)
    assert folders_of(prepared) <= set(labels)
    assert all(f"/{layout.format('')}" in path for path in prepared.pairs["clean_image"]), "of another split"
    aside = prepared.set_aside.set_index("row")["reason"]
    if split and split != "DATASET":
        assert (aside[[row for row in aside.index if f"/{other}/" in row]] == f"it is of the split {other}").all()
        assert aside.eq(f"it is of the split {other}").sum() == 4


def test_rows_are_named_as_if_the_place_were_the_root(fill):
    """So that pairs are the same whether the archive or its inner folder is given."""
    root = fill("DATASET/test/cat", "DATASET/test/dog", "DATASET/test/cow", "DATASET/test/pig")
    outer = vt.load_pairs("folder", 4, root=root, model=count)
    inner = vt.load_pairs("folder", 4, root=root / "DATASET" / "test", model=count)
    assert outer.equals(inner)


def test_a_split_that_is_not_there_is_one_sentence(fill):
    root = fill("train/happy", "train/sad")
    with pytest.raises(vt.VlmtraceError, match="holds the splits train and not 'test': name the folder of another"):
        vt.load_pairs("facial_expressions", root=root)
    for split in ("train", "val"):
        with pytest.raises(vt.VlmtraceError, match=f"has no split '{split}': put the folders of labels into a folder"):
            vt.load_pairs("facial_expressions", root=root / "train", split=split)
    fill("val/happy", "validation/happy")
    with pytest.raises(vt.VlmtraceError, match="holds val and validation, which both mean val"):
        vt.load_pairs("facial_expressions", root=root)


def test_splits_without_labels_are_not_taken_for_labels(fill):
    root = fill("train", "test")
    for task in ("folder", "facial_expressions", "mit_states"):
        with pytest.raises(vt.VlmtraceError, match=r"test holds no folders: .* for each label in each of"):
            vt.load_pairs(task, root=root)


def test_a_label_may_be_named_as_a_split(fill):
    """A train is a vehicle where it stands among others."""
    prepared = prepared_of("folder", fill("train", "bus", "car", "ship"))
    assert prepared.filters["rows_used"].iloc[1] == 8, "images are left out before any is looked at"
    assert folders_of(prepared) <= {"train", "bus", "car", "ship"}


def test_a_linked_split_is_followed(fill, tmp_path):
    root = fill("data/v1/cat", "data/v1/dog", "data/v1/cow", "data/v1/pig", "root/train/cat")
    (root / "root" / "test").symlink_to(root / "data" / "v1")
    prepared = vt.prepare_pairs("folder", 4, root=root / "root", model=count)
    check(prepared, 4)
    assert prepared.set_aside["reason"].tolist()[:2] == ["it is of the split train"] * 2


# Every file


def test_every_file_beside_images_has_a_row(fill):
    root = fill("red", "blue", "green", "pink")
    save(photograph(), root / "loose.png")
    for name in ("labels.csv", "red/Thumbs.db", "red/film.mov", "blue/notes", "words.txt", ".DS_Store", "red/.hidden"):
        (root / name).write_bytes(b"x")
    (root / "empty").mkdir()
    prepared = vt.prepare_pairs("folder", 8, root=root, model=count)
    check(prepared)
    aside = prepared.set_aside[prepared.set_aside["step"].isin([FILE, PLACED])].set_index("row")
    assert aside["reason"].to_dict() == {
        "blue/notes": "it is no image: its name has no ending",
        "labels.csv": "it is no image: its name ends in .csv",
        "loose.png": "it lies beside the folders of labels, in none of them",
        "red/Thumbs.db": "it is no image: its name ends in .db",
        "red/film.mov": "it is a video",
    }
    assert aside["step"].to_dict()["loose.png"] == PLACED
    assert prepared.filters.iloc[0]["rows_in"] == every_file(root) - 1, "words.txt is used, all else has a row"


def test_only_the_tasks_that_read_words_leave_them_out(fill):
    root = fill("happy", "sad")
    (root / "words.txt").write_text("x")
    assert "words.txt" in set(prepared_of("facial_expressions", root).set_aside["row"])


def test_a_name_that_is_no_text_is_set_aside_and_the_table_can_be_written(fill, tmp_path):
    root = fill("root/cat", "root/dog", "root/cow", "root/pig") / "root"
    photograph(turn=77).save(os.fsencode(root) + b"/cat/K\xf6ter.jpg")
    os.mkdir(os.fsencode(root) + b"/g\xe4nse")
    photograph(turn=78).save(os.fsencode(root) + b"/g\xe4nse/1.jpg")
    prepared = prepared_of("folder", root)
    aside = prepared.set_aside.set_index("row")["reason"]
    assert aside["cat/K\\xf6ter.jpg"] == aside["g\\xe4nse/1.jpg"] == "its path is not UTF-8: rename it"
    for name, table in (("pairs", prepared.pairs), ("set_aside", prepared.set_aside)):
        table.to_parquet(tmp_path / f"{name}.parquet")


def test_a_folder_of_nothing_says_what_was_found(fill):
    root = fill("cat", name="{}.xyz".replace("xyz", "jpg"))
    for path in (root / "cat").iterdir():
        path.rename(path.with_suffix(".mov"))
    said = r"holds no folders with images \(it is a video \(2\)\): folder expects a folder of images for each label"
    with pytest.raises(vt.VlmtraceError, match=said):
        vt.load_pairs("folder", root=root)
    (root / "flat").mkdir()
    save(photograph(), root / "flat" / "1.jpg")
    with pytest.raises(vt.VlmtraceError, match=r"\(it lies beside the folders of labels, in none of them \(1\)\)"):
        vt.load_pairs("folder", root=root / "flat")
    (root / "void").mkdir()
    with pytest.raises(vt.VlmtraceError, match=r"holds no folders with images \(it is empty\)"):
        vt.load_pairs("folder", root=root / "void")


# Labels


def test_labels_of_people_who_write_as_people_do(fill):
    """Blanks, umlauts in both normal forms of Unicode, and cases: one label where they mean one word."""
    root = fill("Ko\u0308ter", "K\u00f6ter", "k\u00f6ter", "rote Katze", "rote  katze", "Esel", "Wal", "___")
    (root / "words.txt").write_text("Maus\nHund\ngroße Kuh\n")
    prepared = vt.prepare_pairs("folder", 99, root=root, model=count)
    check(prepared)
    assert set(prepared.pairs["correct_answer"]) <= {"K\u00f6ter", "rote Katze", "Esel", "Wal"}
    assert "K\u00f6ter" in set(prepared.pairs["correct_answer"]) and "Ko\u0308ter" not in "".join(
        prepared.pairs["clean_prompt"]
    )
    assert prepared.set_aside["reason"].eq("the folder '___' is named by no word").sum() == 2


def test_words_that_are_no_text_are_one_sentence(fill):
    root = fill("cat", "dog")
    (root / "words.txt").write_bytes(b"K\xf6ter\n")
    with pytest.raises(vt.VlmtraceError, match=r"words\.txt is not in UTF-8: save it as UTF-8"):
        vt.load_pairs("folder", root=root, model=count)
    (root / "words.txt").write_bytes(b"\xef\xbb\xbfcow\npig\n")
    assert "cow" in " ".join(vt.load_pairs("folder", root=root, model=count)["corrupt_prompt"])


# Emotions


@pytest.mark.parametrize(
    ("folder", "emotion"),
    [
        ("0_angry", "angry"),
        ("1. Happy", "happy"),
        ("SADNESS", "sad"),
        ("angry_faces", "angry"),
        ("Surprise", "surprised"),
        ("suprise", "surprised"),
        ("03-fear", "fearful"),
        ("Contempt", None),
        ("not happy", None),
        ("happily surprised", None),
        ("1", None),
        ("", None),
    ],
)
def test_emotions_by_the_names_of_folders(folder, emotion):
    assert emotion_of(folder) == emotion


def test_published_names_are_emotions(fill):
    for names in (
        "Anger Contempt Disgust Fear Happy Neutral Sad Surprise",
        "anger contempt disgust fear happy sadness surprise",
        "0_angry 1_disgust 2_fear 3_happy 4_sad 5_surprise 6_neutral",
    ):
        root = fill(*(f"{names[:4]}/train/{name}" for name in names.split())) / names[:4]
        prepared = prepared_of("facial_expressions", root, split="train")
        known = {name for name in names.split() if "ontempt" not in name}
        assert folders_of(prepared) <= known
        reasons = set(prepared.set_aside["reason"])
        assert any("ontempt' is named by none of the seven emotions" in reason for reason in reasons) or names[0] == "0"


def test_numbers_are_emotions_only_as_raf_db_has_them(fill):
    root = fill(*(f"raf/DATASET/test/{i}" for i in RAF_DB), name="test_{:04d}_aligned.jpg") / "raf"
    prepared = prepared_of("facial_expressions", root)
    for pair in prepared.pairs.itertuples():
        assert RAF_DB[pair.clean_image.split("/")[-2]] == pair.correct_answer
    assert RAF_DB == {
        "1": "surprised", "2": "fearful", "3": "disgusted", "4": "happy", "5": "sad", "6": "angry", "7": "neutral",
    }  # fmt: skip
    assert set(RAF_DB.values()) == set(EMOTIONS.values())


@pytest.mark.parametrize("numbers", ["1234567", "0123456", "123456", "12345678"])
def test_other_numbers_are_refused_with_what_is_expected(fill, numbers):
    root = fill(*(f"test/{i}" for i in numbers))
    said = f"holds the folders {', '.join(numbers)}: .* expects folders named angry, disgust, .* or RAF-DB's 1 to 7"
    with pytest.raises(vt.VlmtraceError, match=said):
        vt.load_pairs("facial_expressions", root=root)


# MIT-States


def test_the_archive_of_mit_states_is_accounted_for(fill):
    inner = "mit/release_dataset/images"
    names = ("ripe apple", "Burnt_Apple", "moldy  apple", "mashed apple", "adj apple")
    root = fill(*(f"{inner}/{name}" for name in names)) / "mit"
    (root / "release_dataset" / "adj_ants.csv").write_text("x")
    prepared = prepared_of("mit_states", root)
    assert prepared.set_aside.set_index("row")["reason"]["../adj_ants.csv"].startswith("it is no image")
    wrapped = vt.load_pairs("mit_states", 4, root=root.parent, model=count)
    assert wrapped.equals(prepared.pairs)


# What is made from photographs


def test_thumbnails_beside_photographs_are_no_photographs(fill):
    labels = ("cat", "dog", "cow", "pig")
    root = fill(*labels, "cat/thumbnails", "dog/more", "cow/masks/fine", "cow/@eaDir", "@eaDir", "pig/previews")
    prepared = prepared_of("folder", root)
    reasons = prepared.set_aside.set_index("row")["reason"]
    assert reasons["cat/thumbnails/0.jpg"] == "it lies in 'thumbnails', a folder of what is made from photographs"
    assert "'masks'" in reasons["cow/masks/fine/0.jpg"] and "'previews'" in reasons["pig/previews/1.jpg"]
    assert (
        reasons["cow/@eaDir/0.jpg"] == reasons["@eaDir/0.jpg"] == "it lies in a folder that a system keeps for itself"
    )
    assert not any("dog/more" in row for row, reason in reasons.items() if not reason.startswith("not needed"))
    assert folders_of(prepared) <= {*labels, "more"}


def test_a_collection_of_depth_maps_keeps_them(fill):
    root = fill(*(f"{label}/depth" for label in ("cat", "dog", "cow", "pig")))
    assert folders_of(prepared_of("folder", root)) == {"depth"}


def test_labels_in_two_cases_of_a_dotted_i_are_one(fill):
    labels = ("İstanbul", "istanbul", "ankara", "izmir", "bursa")
    prepared = prepared_of("folder", fill(*labels))
    assert not {"İstanbul", "istanbul"} <= {*prepared.pairs["correct_answer"], *prepared.pairs["incorrect_answer"]}


def test_the_same_picture_in_another_format_is_no_corrupt_image(tmp_path):
    for i, label in enumerate(("cat", "dog", "cow", "pig")):
        save(photograph(turn=1), tmp_path / label / f"0.{'png' if i % 2 else 'bmp'}")
    with pytest.raises(vt.VlmtraceError, match="no usable image is left that shows the other option"):
        vt.load_pairs("folder", root=tmp_path, model=count)
