"""Examples in docstrings run, and every name of `vt` has one."""

import doctest
import importlib
import inspect

import pytest

import vlmtrace as vt
from vlmtrace.core.paths import ROOT

PACKAGE = ROOT / "vlmtrace"

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS

#: Modules with examples, by their dotted names; read as text, so that collecting tests imports none of them.
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text()
]

#: What the package's own front door shows; its examples load a model, where others take no time.
EXPORTED = sorted(vt.__all__)


def examples(target, name, globs=None):
    """The examples in the docstring of a module, class or function, and of nothing inside it."""
    finder = doctest.DocTestFinder(recurse=False, exclude_empty=True)
    return [test for test in finder.find(target, name, globs=globs) if test.examples]


def run(tests):
    for test in tests:
        report = []
        failed, _ = doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=report.append)
        assert not failed, f"the example of {test.name} gives something else:\n{''.join(report)}"


@pytest.mark.medium
@pytest.mark.parametrize("name", EXPORTED)
def test_the_example_of_a_public_name_runs(name):
    tests = examples(getattr(vt, name), f"vt.{name}", globs={})
    assert tests, f"the docstring of vt.{name} has no example (>>> …)"
    assert "Example:" in inspect.getdoc(getattr(vt, name)), f"vt.{name} has no section Example"
    assert "import vlmtrace as vt" in tests[0].docstring, f"the example of vt.{name} does not import what it uses"
    run(tests)


@pytest.mark.parametrize("name", MODULES)
def test_examples_inside_the_package_run(name):
    module = importlib.import_module(name)
    public = {id(getattr(vt, exported)) for exported in EXPORTED}
    found = doctest.DocTestFinder(exclude_empty=True).find(module, name)
    shown = {test.name: test for test in found if test.examples}
    run(test for label, test in shown.items() if id(resolve(module, label)) not in public)


def resolve(module, label):
    """The object of a module that a doctest is named after."""
    target = module
    for part in label.removeprefix(module.__name__).lstrip(".").split("."):
        target = getattr(target, part) if part else target
    return target
