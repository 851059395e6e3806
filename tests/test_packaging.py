"""What is installed is what is used: one list of requirements, pinned, the same for pip and conda.

The extra `bench` names libraries to compare with; their versions are the comparison's business and not pinned.
"""

import ast
import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vlmtrace
from vlmtrace.core.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]

#: Where the name that is imported is not the name that is installed.
INSTALLED_AS = {
    "PIL": "pillow",
    "causallearn": "causal-learn",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
    "websocket": "websocket-client",
    "zmq": "pyzmq",
}

#: What tests may import because pytest or papermill bring it.
BROUGHT_ALONG = {"packaging", "pyyaml", "pyzmq"}

#: Packages that tests write themselves.
MADE_BY_TESTS = {"plugged_families"}


def requirements(*extras):
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def constraints():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]*", line), f"constraints.txt: {line!r} is not 'name==version'"
    return dict(line.split("==") for line in lines)


def imported(folder):
    """Top-level names that the Python files of a folder import, with one file that does."""
    found = {}
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0]: path for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found[node.module.split(".")[0]] = path
    own = {"vlmtrace", "fixtures", "generators", "link_check", "torture", *MADE_BY_TESTS}
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names and name not in own}


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("vlmtrace", ("bench", "cluster", "heic", "smol", "torchao")),
        ("tests", ("dev", "bench")),
        ("docs", ("dev", "docs")),
    ],
)
def test_every_import_is_required(folder, extras):
    listed = set(requirements(*extras)) | (BROUGHT_ALONG if folder == "tests" else set())
    for name, path in imported(folder).items():
        package = canonicalize_name(INSTALLED_AS.get(name, name))
        assert package in listed, f"{path.relative_to(ROOT)} imports {name}, which pyproject.toml does not list"


def test_every_requirement_is_pinned_within_its_bounds():
    pinned = constraints()
    for name, requirement in requirements(
        "accelerate", "bitsandbytes", "cluster", "dev", "docs", "heic", "smol", "torchao"
    ).items():
        assert name in pinned, f"constraints.txt does not pin {name}"
        assert requirement.specifier, f"pyproject.toml gives no lower bound for {name}"
        assert requirement.specifier.contains(pinned[name]), f"{name}=={pinned[name]} contradicts {requirement}"


def test_torch_is_pinned_and_torchvision_absent():
    pinned = constraints()
    assert pinned["torch"] == "2.13.0"
    assert not {name for name in {*pinned, *requirements(*EXTRAS), *imported("vlmtrace")} if "torchvision" in name}


def test_conda_users_get_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["--constraint constraints.txt", "--editable .[dev]"]
    assert {"python=3.11", "make", "pip"} == set(conda), "a library from conda would escape constraints.txt"
    makefile = (ROOT / "Makefile").read_text()
    assert "pip install --quiet --disable-pip-version-check -c constraints.txt -e\n" in makefile
    assert '$(INSTALL) ".[dev]"' in makefile


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == citation["version"] == vlmtrace.__version__
    assert PROJECT["license"] == citation["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


TIERS = ["make test-browser", "make docs", "make test-slow", "make test-cluster", "make torture"]


@pytest.mark.parametrize("minutes", ["80", "0"], ids=["with time", "without"])
def test_continuous_integration_runs_the_command_of_the_readme_and_names_what_it_leaves_out(tmp_path, minutes):
    script, called = ROOT / ".ci" / "run", tmp_path / "called"
    for name in ("make", "chromium"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $1" >> "{called}"\n')
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "CI_MINUTES": minutes}
    done = subprocess.run([script], env=environment, capture_output=True, text=True, check=True)
    left_out = [] if minutes == "80" else TIERS
    ran = called.read_text().splitlines()
    assert ran == ["make lint", "make test", *(tier for tier in TIERS if tier not in left_out)]
    assert [tier for tier in TIERS if tier in done.stdout] == left_out
    assert "    make test" in (ROOT / "README.md").read_text()
