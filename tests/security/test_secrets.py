"""No secret of the environment, and no token, in anything that is written: tables, record, notebooks, pages, logs."""

import os
import re
import stat

import pytest
from fixtures.stored_secrets import SECRETS

from vlmtrace.core import paths

pytestmark = pytest.mark.medium


def written(folder):
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def holders(folder, *secrets):
    """The files that hold a secret, as it is or in base64."""
    import base64

    encoded = [*(s.encode() for s in secrets), *(base64.b64encode(s.encode()).rstrip(b"=")[:-1] for s in secrets)]
    return [path for path in written(folder) if any(secret in path.read_bytes() for secret in encoded)]


def test_what_a_run_leaves_holds_no_secret_of_the_environment(tiny_blip_run):
    """The fixture executes every notebook, and the report, with these secrets in its environment."""
    files = written(tiny_blip_run.folder)
    kinds = {path.suffix for path in files}
    assert {".parquet", ".json", ".ipynb", ".html", ".png", ".pdf"} <= kinds, "the run is not complete"
    assert not holders(tiny_blip_run.folder, *SECRETS.values())
    assert not holders(tiny_blip_run.home / "data", *SECRETS.values())


def test_what_a_run_leaves_names_no_variable_of_the_environment(tiny_blip_run):
    """A record of versions and parameters is kept; a record of the environment is not."""
    text = (tiny_blip_run.folder / "run.json").read_text()
    assert not [name for name in (*SECRETS, "PATH", "HOME", "USER", "HOSTNAME") if re.search(rf'"{name}"', text)]


def test_nobody_else_can_change_what_a_run_leaves(tiny_blip_run):
    umask = os.umask(0)
    os.umask(umask)
    for path in written(tiny_blip_run.folder):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert not mode & umask & 0o022 and not mode & 0o111, f"{path}: {mode:o}"


def test_the_app_tells_no_secret(app):
    """Neither its page with the kernel's outputs, nor its log, nor what lies in its run."""
    page = app.ask("/", timeout=180, **app.bearer())
    assert page.status == 200 and "kernelId" in page.body
    log = app.log.read_text()
    for secret in SECRETS.values():
        assert secret not in page.body + log
    assert app.token not in page.body and log.count(app.token) == 1, "the address is printed once"
    assert not holders(app.home / "data" / "runs", *SECRETS.values(), app.token)
    # Who asks with the token in the address is logged with it where the answer is an error.
    app.ask(f"/voila/files/x?token={app.token}")
    app.ask(f"/nowhere?token={app.token}")
    assert app.log.read_text().count(app.token) == 1, "the token stands in the log"


def test_no_secret_is_in_the_repository():
    """What looks like a key of one of the usual services."""
    looks_like = re.compile(
        rb"hf_[A-Za-z0-9]{30,}|ghp_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9]{32,}|AKIA[A-Z0-9]{16}|-----BEGIN [A-Z ]*PRIVATE KEY"
    )
    folders = ("vlmtrace", "tests", "docs", "notebooks", ".github", ".ci")
    files = [path for folder in folders for path in (paths.ROOT / folder).rglob("*") if path.is_file()]
    files = [path for path in files if path.suffix in (".py", ".md", ".ipynb", ".yml", ".json", ".js", ".toml", "")]
    assert len(files) > 200
    assert not [path for path in files if path.name != "test_secrets.py" and looks_like.search(path.read_bytes())]
