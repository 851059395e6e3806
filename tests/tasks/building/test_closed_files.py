"""Folders and files of a user's own data that may not be read: one sentence, and no traceback."""

import errno
from pathlib import Path

import pytest

import vlmtrace as vt
from vlmtrace.tasks.building.csv_files import find_csv, read_csv, tables_in
from vlmtrace.tasks.building.question_tables import find_table
from vlmtrace.tasks.building.token_replacement import words_beside

SAID = r"cannot be read \(Permission denied\): correct its permissions\.$"


@pytest.fixture
def closed(monkeypatch):
    """Deny, as the system does whoever is not root, to call a method of a path."""

    def deny(method):
        def refuse(self, *_, **__):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))

        monkeypatch.setattr(Path, method, refuse)

    return deny


@pytest.mark.parametrize(
    "look",
    [
        tables_in,
        lambda folder: find_csv(folder, ["image"], "csv"),
        lambda folder: find_table(folder, "coco_qa", "test", ("train", "test")),
    ],
    ids=["tables_in", "find_csv", "find_table"],
)
def test_a_folder_that_may_not_be_listed(tmp_path, closed, look):
    closed("iterdir")
    with pytest.raises(vt.VlmtraceError, match=rf"^{tmp_path} {SAID}"):
        look(tmp_path)


def test_a_file_of_words_that_may_not_be_read(tmp_path, closed):
    (tmp_path / "words.txt").write_text("red\n")
    assert words_beside(tmp_path) == ["red"]
    closed("read_text")
    with pytest.raises(vt.VlmtraceError, match=rf"words\.txt {SAID}"):
        words_beside(tmp_path)


def test_a_folder_in_which_no_file_may_be_looked_at(tmp_path, closed):
    closed("is_file")
    for read in (words_beside, lambda folder: read_csv(folder / "a.csv", ["image"])):
        with pytest.raises(vt.VlmtraceError, match=SAID):
            read(tmp_path)
