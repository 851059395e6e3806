"""Tests lie where a reader looks for them: beside what they test, in the package's own order."""

import ast

import pytest

from vlmtrace.core.paths import ROOT

TESTS = ROOT / "tests"
FILES = sorted(path for path in TESTS.rglob("*.py") if "__pycache__" not in path.parts)

#: Folders that are no room of the package: helpers, tests of everything at once, on a real Slurm and of the
#: documentation, attacks, and random faults.
OF_THEIR_OWN = {"fixtures", "end_to_end", "cluster", "docs", "security", "torture"}


def names(paths):
    return [path.relative_to(TESTS).as_posix() for path in paths]


def test_helpers_lie_in_fixtures():
    stray = [path for path in FILES if not path.name.startswith("test_") and path.name != "conftest.py"]
    places = (TESTS / "fixtures", TESTS / "torture")  # torture is a program of its own
    outside = [path for path in stray if not any(path.is_relative_to(place) for place in places)]
    assert not names(outside), "move these to tests/fixtures"


def test_folders_are_those_of_the_package():
    folders = {path.relative_to(TESTS).parent for path in FILES}
    for folder in sorted(folders):
        if folder.parts and folder.parts[0] not in OF_THEIR_OWN:
            assert (ROOT / "vlmtrace" / folder).is_dir(), f"tests/{folder} tests no folder of the package"


@pytest.mark.parametrize("path", [path for path in FILES if path.name.startswith("test_")], ids=lambda path: path.stem)
def test_a_test_module_imports_no_other(path):
    for node in ast.walk(ast.parse(path.read_text())):
        imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        imported += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in imported:
            parts = name.split(".")
            assert not any(part.startswith("test_") or part == "conftest" for part in parts), (
                f"{path.relative_to(ROOT)} imports {name}: what tests share belongs in tests/fixtures"
            )


def test_a_mistyped_marker_is_an_error(pytestconfig):
    assert pytestconfig.getoption("strict_markers"), "a mistyped marker would put a test into the wrong command"
    assert {"medium", "slow"} <= {line.partition(":")[0] for line in pytestconfig.getini("markers")}
