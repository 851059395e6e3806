"""A folder is there as a whole, before and after, whatever stops its writing."""

import errno

import pytest

from vlmtrace import VlmtraceError
from vlmtrace.training.whole_folder import whole_folder


@pytest.fixture
def folder(tmp_path):
    """A model's folder that is to be replaced."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("older")
    return folder


def written(folder, text="newer"):
    with whole_folder(folder, "config.json") as made:
        assert (folder / "config.json").read_text() == "older", "the older one is gone before the newer is whole"
        (made / "config.json").write_text(text)


def only(folder, text):
    assert [path.name for path in folder.parent.iterdir()] == ["model"], "something was left"
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"config.json": text}


def test_the_newer_takes_the_place_of_the_older(folder):
    (folder / "of the older").write_text("x")
    written(folder)
    only(folder, "newer")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(errno.ENOSPC, "No space left on device")])
def test_what_stops_the_writing_leaves_the_older(folder, error):
    with pytest.raises((KeyboardInterrupt, ValueError, VlmtraceError)), whole_folder(folder, "config.json") as made:
        (made / "config.json").write_text("half")
        raise error
    only(folder, "older")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_what_stops_the_second_renaming_puts_the_older_back(folder, error, monkeypatch):
    rename = type(folder).rename

    def refused(path, target):
        if path.name == ".model.made":
            raise error
        return rename(path, target)

    monkeypatch.setattr(type(folder), "rename", refused)
    with pytest.raises((VlmtraceError, KeyboardInterrupt)):
        written(folder)
    only(folder, "older")


def test_a_process_that_was_killed_between_the_renamings_loses_nothing(folder):
    folder.rename(folder.with_name(".model.before"))
    (folder.parent / ".model.made").mkdir()
    written(folder)
    only(folder, "newer")


def test_what_a_disk_refuses_is_a_sentence_also_with_a_files_name(folder):
    with pytest.raises(VlmtraceError, match="no space is left"), whole_folder(folder, "config.json") as made:
        raise OSError(errno.ENOSPC, "No space left on device", str(made / "config.json"))
    only(folder, "older")


def test_something_else_is_not_replaced(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "diary.txt").write_text("mine")
    with pytest.raises(VlmtraceError, match="holds something else"), whole_folder(tmp_path / "model", "config.json"):
        pytest.fail("it may be written to")
    assert (tmp_path / "model" / "diary.txt").read_text() == "mine"


def test_a_folder_on_another_disk_is_replaced_there_and_its_link_stays(folder, tmp_path):
    link = tmp_path / "links" / "model"
    link.parent.mkdir()
    link.symlink_to(folder)
    for _ in range(2):
        with whole_folder(link, "config.json") as made:
            (made / "config.json").write_text("newer")
    assert [path.name for path in link.parent.iterdir()] == ["model"] and link.is_symlink()
    assert (folder / "config.json").read_text() == "newer"


def test_a_file_in_its_place_is_left_alone(tmp_path):
    (tmp_path / "model").write_text("mine")
    for _ in range(2):
        with pytest.raises(VlmtraceError, match="is a file where a folder must be"), whole_folder(tmp_path / "model"):
            pytest.fail("it may be written to")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
