"""Files appear whole or not at all, and what a disk refuses is one sentence that leaves all as it was."""

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from vlmtrace.core import files
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import locked, make_folder, read_json, read_table, table_shape, write_atomically, write_json
from vlmtrace.core.paths import ROOT

TABLE = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})


def left(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# Writing


@pytest.mark.parametrize(
    "code",
    ["EROFS", "ENOSPC", "EACCES", "EPERM", "EDQUOT", "EFBIG", "ENAMETOOLONG", "ELOOP", "EIO", "EMFILE", "ENFILE"],
)
@pytest.mark.parametrize("step", ["replace", "fsync", "mkdir", "write"])
def test_what_a_disk_refuses_is_a_sentence_and_leaves_the_old_file(tmp_path, monkeypatch, code, step):
    target = tmp_path / "run" / "table.json"
    target.parent.mkdir()
    target.write_text("old")

    def refuse(*_arguments, **_options):
        raise OSError(getattr(errno, code), "refused")

    monkeypatch.setattr(Path if step == "mkdir" else os, step, refuse)
    with (
        pytest.raises(VlmtraceError, match=r"run(/table\.json)? cannot be written, because .+: .+\.$") as caught,
        write_atomically(target, durable=True) as temporary,
    ):
        temporary.write_text("new")
        if step == "write":
            refuse()
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert target.read_text() == "old" and left(tmp_path) == ["run", "run/table.json"]


def test_an_error_about_another_file_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), write_atomically(tmp_path / "a.txt"):
        Path("/elsewhere/is/nothing").read_bytes()
    with pytest.raises(ZeroDivisionError), write_atomically(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        _ = 1 / 0
    assert left(tmp_path) == []


def test_a_disk_that_is_full_keeps_nothing_half_written(tmp_path):
    """A file system of its own with little room; where none can be mounted, a limit on the size of files."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = os.geteuid() == 0 and not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True
    ).returncode if sys.platform == "linux" else False  # fmt: skip
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        files.write_table(TABLE, small / "r/table.parquet")
        if not mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
        large = pd.DataFrame({"a": [os.urandom(8).hex() for _ in range(20000)]})
        with pytest.raises(VlmtraceError, match=r"table\.parquet cannot be written, because (no space|it is larger)"):
            files.write_table(large, small / "r/table.parquet")
        with pytest.raises(VlmtraceError, match="cannot be written, because"):
            write_json({"a": "b" * 2**17}, small / "r/run.json")
        refused = pytest.raises(VlmtraceError, match=r"checkpoint\.safetensors cannot be written, because")
        with refused, write_atomically(small / "r/checkpoint.safetensors") as temporary:
            save_file({"a": torch.zeros(2**16)}, temporary)  # which raises an error of its own kind
        assert left(small) == ["r", "r/table.parquet"], "something half-written was left"
        pd.testing.assert_frame_equal(read_table(small / "r/table.parquet"), TABLE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        if mounted:
            subprocess.run(["umount", small], check=True)


def test_a_file_system_that_is_read_only(tmp_path):
    mounted = sys.platform == "linux" and os.geteuid() == 0 and not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", tmp_path], capture_output=True
    ).returncode  # fmt: skip
    if not mounted:
        pytest.skip("nothing can be mounted here")
    try:
        for write in (lambda p: write_json({}, p), lambda p: files.write_table(TABLE, p)):
            with pytest.raises(VlmtraceError, match="because the file system is read-only: make it writable"):
                write(tmp_path / "x.out")
        with pytest.raises(VlmtraceError, match="read-only"), locked(tmp_path / "x.lock"):
            pass
        with pytest.raises(VlmtraceError, match="read-only"):
            make_folder(tmp_path / "folder")
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_folder_in_place_of_a_file_and_a_file_in_place_of_a_folder(tmp_path):
    (tmp_path / "table.json").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(VlmtraceError, match="because a folder lies where the file must be"):
        write_json({}, tmp_path / "table.json")
    with pytest.raises(VlmtraceError, match="because a file lies where a folder must be"):
        write_json({}, tmp_path / "file" / "run" / "table.json")
    with pytest.raises(VlmtraceError, match="because a file lies where a folder must be"):
        make_folder(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine" and left(tmp_path) == ["file", "table.json"]


def test_a_name_as_long_as_names_may_be_is_written(tmp_path):
    target = tmp_path / ("ä" * 123 + ".json")  # 251 bytes
    write_json({"a": 1}, target)
    assert read_json(target) == {"a": 1} and len(left(tmp_path)) == 1
    with pytest.raises(VlmtraceError, match="its name is too long"):
        write_json({}, tmp_path / ("a" * 300 + ".json"))


def test_what_a_killed_process_left_goes_when_the_file_is_written_again(tmp_path):
    script = (
        "import os, signal, sys\n"
        "from vlmtrace.core.files import write_atomically\n"
        "with write_atomically(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script, tmp_path / "run.json"], env=environment, timeout=60)
    (leftover,) = tmp_path.iterdir()
    assert leftover.name.startswith(".run.") and ".part" in leftover.name
    other = tmp_path / leftover.name.replace(".run.", ".other.")
    other.write_text("of another file")
    with write_atomically(tmp_path / "run.json") as mine:
        mine.write_text("{}")
        (tmp_path / "run.json").write_text("[]")
    assert left(tmp_path) == [other.name, "run.json"] and read_json(tmp_path / "run.json") == {}


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with write_atomically(tmp_path / "a") as one, write_atomically(tmp_path / "a") as two:
        one.write_text("1")
        two.write_text("2")
    assert one != two and (tmp_path / "a").read_text() == "1" and left(tmp_path) == ["a"]


def test_a_lock_is_of_one_process_and_ends_with_it(tmp_path):
    script = (
        "import sys, time\n"
        "from vlmtrace.core.files import locked\n"
        "with locked(sys.argv[1]):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, tmp_path / "lock"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(VlmtraceError, match=r"^Wait\.$"), locked(tmp_path / "lock", "Wait."):
                pass
        finally:
            holder.kill()
    with locked(tmp_path / "lock", "Wait."):
        pass


# Reading JSON


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"\x00\xff", b'{"a": nope}', b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"{'a': 1}",
        "{}".encode("utf-16"),
    ],
)  # fmt: skip
def test_what_is_no_json_is_a_sentence(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(VlmtraceError, match=r"run\.json is not valid JSON \(.+\): repair or delete it\.$") as caught:
        read_json(tmp_path / "run.json")
    assert "\n" not in str(caught.value) and (tmp_path / "run.json").read_bytes() == content


def test_json_of_any_editor_is_read(tmp_path):
    (tmp_path / "run.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": "ä\u2028"}, ensure_ascii=False).encode())
    assert read_json(tmp_path / "run.json") == {"a": "ä\u2028"}


def test_a_folder_is_no_json(tmp_path):
    with pytest.raises(VlmtraceError, match="cannot be read"):
        read_json(tmp_path)


# Reading tables


def test_what_is_no_table_is_a_sentence(tmp_path):
    files.write_table(TABLE, tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    for content in (b"", b"a,b\n1,2\n", whole[:-9], whole[: len(whole) // 2], b"PAR1" + os.urandom(99) + b"PAR1"):
        path = tmp_path / "table.parquet"
        path.write_bytes(content)
        for read in (read_table, table_shape):
            with pytest.raises(VlmtraceError, match=r"table\.parquet is not a readable parquet table") as caught:
                read(path)
            assert "\n" not in str(caught.value)
        assert path.read_bytes() == content
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(VlmtraceError, match="is a folder where a table must lie"):
        read_table(tmp_path / "folder.parquet")
    assert table_shape(tmp_path / "whole.parquet") == (2, ["a", "b"])


def test_bits_that_flip_give_a_sentence_or_a_table(tmp_path):
    files.write_table(TABLE, tmp_path / "t.parquet")
    whole = (tmp_path / "t.parquet").read_bytes()
    for place in range(0, len(whole), 7):
        (tmp_path / "t.parquet").write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read_table(tmp_path / "t.parquet")
        except VlmtraceError as error:
            assert "is not a readable parquet table" in str(error)
