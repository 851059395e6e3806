"""The whole site: no warning, no broken link, nothing loaded from elsewhere, the same for every page."""

import json
import shutil
import subprocess
import sys

import pytest

from vlmtrace.core.paths import ROOT

pytest.importorskip("furo", reason="make docs installs what the site is built with")


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    """With the committed notebooks in the place of executed ones, so that nothing is computed."""
    for run in ("one", "two"):
        (tmp_path / "runs" / run / "notebooks").mkdir(parents=True)
        for path in (ROOT / "notebooks").glob("*.ipynb"):
            shutil.copy(path, tmp_path / "runs" / run / "notebooks")
    # The build lies beside its sources; a copy of them keeps the checkout's own site as it is.
    for name in ("docs", "notebooks", "vlmtrace"):
        ignore = shutil.ignore_patterns("__pycache__", "_build")
        shutil.copytree(ROOT / name, tmp_path / "copy" / name, ignore=ignore)
    for name in ("pyproject.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path / "copy")
    command = [sys.executable, "docs/build.py", "--runs", str(tmp_path / "runs"), "--run", "one", "--llava-run", "two"]
    result = subprocess.run(command, cwd=tmp_path / "copy", capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    html = tmp_path / "copy" / "docs" / "_build" / "html"
    for page in ("index", "start", "methods/patching", "notebooks/04_module_patching", "api/vlmtrace", "families"):
        text = (html / f"{page}.html").read_text()
        assert "<h1>" in text and "generated:" not in text, page
    assert "<math" in (html / "methods" / "patching.html").read_text()
    index = json.loads((html / "searchindex.js").read_text().removeprefix("Search.setIndex(").removesuffix(")"))
    assert len(index["docnames"]) > 40
