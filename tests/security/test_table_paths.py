"""Paths in tables that somebody else wrote: they open images and nothing else, and write nowhere.

A table may name any image that its reader may open (docs/own-data.md). What an attacker could want is that a file of
another kind is shown or quoted, that the program waits for ever, or that something is written.
"""

import json
import os

import pandas as pd
import pytest
from fixtures.raw_data import photograph, save

import vlmtrace as vt

SECRET = "token-1b9c"


@pytest.fixture
def place(tmp_path):
    root = tmp_path / "table"
    for i in range(3):
        save(photograph(turn=i + 1), root / "images" / f"{i}.png")
    (tmp_path / "secret.txt").write_text(SECRET)
    os.mkfifo(tmp_path / "pipe.png")
    (root / "images" / "link.png").symlink_to(tmp_path / "secret.txt")
    (root / "images" / "loop.png").symlink_to(root / "images" / "loop.png")
    (root / "images" / "up").symlink_to(tmp_path)
    return root


ATTACKS = [
    "../secret.txt",
    "images/../../secret.txt",
    "..\\secret.txt",
    "..%2Fsecret.txt",
    "%2e%2e/secret.txt",
    "file://{above}/secret.txt",
    "{above}/secret.txt",
    "images/link.png",
    "images/loop.png",
    "images/up/secret.txt",
    "../pipe.png",
    "/dev/zero",
    "/dev/stdin",
    "/proc/self/environ",
    "/etc/passwd",
    "..",
    "images",
    "~/.ssh/id_rsa",
    "x" * 5000,
    "../" * 2000 + "etc/passwd",
    "$(touch owned)",
    "http://127.0.0.1:1/a.png",
    "http://[::1]/a.png",
]


def tree(folder):
    return {str(path.relative_to(folder)): path.lstat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_path_in_a_csv_shows_and_quotes_no_other_file(place, name):
    name = name.format(above=place.parent)
    good = {"clean_image": "images/0.png", "corrupt_image": "images/1.png", "clean_prompt": "Is it?"}
    answers = {"correct_answer": "yes", "incorrect_answer": "no"}
    table = pd.DataFrame([good | answers, good | answers | {"clean_image": name, "clean_object_mask": name}])
    table.to_csv(place / "pairs.csv", index=False)
    before = tree(place.parent)
    prepared = vt.prepare_pairs("csv", root=place / "pairs.csv")
    assert len(prepared.pairs) == 1 and prepared.set_aside["row"].tolist() == ["row 3"]
    said = prepared.set_aside["reason"].iloc[0]
    assert SECRET not in said and "root:" not in said, said
    assert tree(place.parent) == before, "something was written"


@pytest.mark.parametrize("name", ATTACKS)
def test_a_path_in_a_json_shows_and_quotes_no_other_file(place, name):
    name = name.format(above=place.parent)
    records = [
        {"image": image, "question": f"what color is {i}", "answer": "red"} for i, image in enumerate(("0.png", name))
    ]
    (place / "q.json").write_text(json.dumps(records))
    before = tree(place.parent)
    table = vt.load_questions("coco_qa", root=place)
    assert table["image"].str.endswith("images/0.png").all() and len(table) == 1
    assert tree(place.parent) == before, "something was written"
