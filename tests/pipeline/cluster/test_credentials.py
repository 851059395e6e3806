"""The certificate of a cluster, and what is said where the extra is missing."""

import builtins
import stat
import sys

import pytest

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline.cluster.credentials import (
    LIBRARIES,
    PREFIX,
    Credentials,
    check_extra,
    new_credentials,
    remove_leftovers,
    shared_folder,
)


@pytest.mark.parametrize("missing", LIBRARIES)
def test_a_missing_extra_is_one_sentence(missing, monkeypatch):
    real = builtins.__import__

    def without(name, *others, **options):
        if name.split(".")[0] == missing:
            raise ImportError(name)
        return real(name, *others, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setitem(sys.modules, missing, None)
    sentence = r"which is not installed: run pip install -c constraints.txt -e '\.\[cluster\]' in the checkout\.$"
    with pytest.raises(VlmtraceError, match=sentence):
        check_extra()


@pytest.mark.medium
@pytest.mark.parametrize("shared", [False, True])
def test_only_the_owner_can_read_a_certificate_and_it_is_removed(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")
    made = new_credentials(shared)
    try:
        assert made.folder.is_relative_to(tmp_path) == shared
        assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700
        for path in made.folder.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
        security = made.security()
        assert security.require_encryption
        for role in ("scheduler", "worker", "client"):
            assert all(security.get_tls_config_for_role(role)[part] for part in ("ca_file", "cert", "key"))
    finally:
        made.remove()
    assert not made.folder.exists()


def test_somebody_elses_files_are_not_removed(tmp_path):
    path = tmp_path / "ca.pem"
    path.write_text("x")
    Credentials({"ca": str(path), "cert": str(path), "key": str(path)}).remove()
    assert path.exists()


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path, monkeypatch):
    import os
    import socket
    import tempfile

    from vlmtrace.core import paths

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")
    for folder, prefix in ((tmp_path / "tmp", PREFIX), (shared_folder(), f"{socket.gethostname()}-")):
        alive = {f"{prefix}{os.getpid()}-alive", f"{prefix}of-somebody", "another-machine-4194999-x", "other"}
        for name in {*alive, f"{prefix}4194999-dead"}:
            (folder / name).mkdir(parents=True)
        remove_leftovers()
        assert {path.name for path in folder.iterdir()} == alive
