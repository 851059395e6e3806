"""Files that cannot be read although nothing is wrong with them: nobody is told to delete or replace them."""

import errno
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlmtrace.core import files, stored
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import read_json, read_table, table_shape, write_table
from vlmtrace.core.images import open_image
from vlmtrace.core.stored import open_stored

ERRORS = {
    r"cannot be read \(Permission denied\): correct its permissions\.$": PermissionError(errno.EACCES, "denied"),
    r"cannot be read \(Too many open files\): raise the limit of open files": OSError(errno.EMFILE, "too many"),
    r"cannot be read \(Stale file handle\): see to that, and start": OSError(errno.ESTALE, "stale"),
    r"cannot be read \(memory does not suffice, malloc of size 9 failed\): end other": pa.ArrowMemoryError(
        "malloc of size 9 failed"
    ),
    r"cannot be read \(memory does not suffice, MemoryError\): end other programs": MemoryError(),
}


@pytest.fixture(params=ERRORS)
def refusal(request):
    """What the system raises, and what is said of it."""
    return ERRORS[request.param], request.param


@pytest.fixture
def path(tmp_path):
    return write_table(pd.DataFrame({"sample_id": ["a", "b"], "x": [1.0, 2.0]}), tmp_path / "table.parquet")


def raising(error):
    def raise_it(*_, **__):
        raise error

    return raise_it


@pytest.mark.parametrize("read", [read_table, table_shape, open_stored])
def test_a_good_table_is_not_to_be_deleted(path, monkeypatch, refusal, read):
    error, said = refusal
    monkeypatch.setattr(pq, "ParquetFile", raising(error))
    with pytest.raises(VlmtraceError, match=rf"table\.parquet {said}") as caught:
        read(path)
    assert "delete" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_may_not_be_opened_is_one_of_these(path, monkeypatch):
    denied = raising(PermissionError(errno.EACCES, "Permission denied", str(path)))
    monkeypatch.setattr(files, "open", denied, raising=False)
    monkeypatch.setattr(pa, "OSFile", denied)
    for read in (read_table, open_stored):
        with pytest.raises(VlmtraceError, match=r"\(Permission denied\): correct its permissions"):
            read(path)


def test_rows_for_which_memory_does_not_suffice(path, monkeypatch):
    table = open_stored(path)
    monkeypatch.setattr(table.sources[0].reader, "iter_batches", raising(pa.ArrowMemoryError("malloc failed")))
    with pytest.raises(VlmtraceError, match="memory does not suffice, malloc failed"):
        table.read()
    monkeypatch.setattr(stored, "plain_table", raising(MemoryError()))
    with pytest.raises(VlmtraceError, match="memory does not suffice"):
        table._whole(["x"])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_permissions_of_a_real_file(path):
    path.chmod(0)
    for read in (read_table, table_shape, open_stored, read_json):
        with pytest.raises(VlmtraceError, match="correct its permissions"):
            read(path)


def test_json_is_not_to_be_deleted_for_its_permissions(tmp_path, monkeypatch):
    monkeypatch.setattr(files.Path, "read_bytes", raising(PermissionError(errno.EACCES, "denied")))
    with pytest.raises(VlmtraceError, match=r"run\.json cannot be read \(Permission denied\): correct its permissions"):
        read_json(tmp_path / "run.json")
    monkeypatch.undo()
    with pytest.raises(VlmtraceError, match=r"cannot be read \(Is a directory\): move the folder away"):
        read_json(tmp_path)


def test_an_image_is_not_to_be_replaced_for_its_permissions(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", raising(OSError(errno.EMFILE, os.strerror(errno.EMFILE))))
    with pytest.raises(VlmtraceError, match=r"a\.png cannot be read \(Too many open files\): raise the limit"):
        open_image(tmp_path / "a.png")
