"""The scripts that build the documentation lie beside its pages; tests import them from there."""

import sys

import pytest

from vlmtrace.core.paths import ROOT

DOCS = ROOT / "docs"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    before = set(sys.modules)
    monkeypatch.syspath_prepend(DOCS)
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("generators", "link_check", "build"):
            del sys.modules[name]
