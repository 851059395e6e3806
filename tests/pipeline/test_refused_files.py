"""What the system refuses to read is not at fault: readers of every kind say so, and nobody is told to delete it."""

import errno

import nbformat
import pandas as pd
import pyarrow.parquet as pq
import pytest

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.circuits.run_facts import read_rows
from vlmtrace.pipeline.notebook_files import read_notebook
from vlmtrace.pipeline.notebook_pages import notebook_as_html
from vlmtrace.training.smol import adapter, checkpoint

#: What reads a file, where, and whose function opens it.
READERS = {
    "circuit.graphml": (vt.load_circuit, "pathlib.Path.read_text"),
    "page.ipynb": (lambda path: notebook_as_html(path, {}), nbformat.__name__ + ".read"),
    "notebook.ipynb": (read_notebook, nbformat.__name__ + ".read"),
    "heads.parquet": (lambda path: read_rows(path, {}), pq.__name__ + ".read_table"),
    # safetensors would say that there is no such file.
    "adapter.safetensors": (adapter._read, "pathlib.Path.open"),
    "training.safetensors": (lambda path: checkpoint.resume(path, {}, {}, None, None), "pathlib.Path.open"),
}


@pytest.mark.parametrize("name", READERS)
def test_nobody_is_told_to_delete_what_may_not_be_opened(tmp_path, monkeypatch, name):
    read, opens = READERS[name]
    path = tmp_path / name
    pd.DataFrame({"x": [1]}).to_parquet(path)  # any file: it is not opened

    def deny(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(opens, deny)
    with pytest.raises(VlmtraceError) as caught:
        read(path)
    said = str(caught.value)
    assert said.endswith(f"{path} cannot be read (Permission denied): correct its permissions."), said
