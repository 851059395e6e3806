"""Written pages of the documentation say what the package does: their examples run, their names and messages exist."""

import ast
import importlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from fixtures.raw_data import photograph, save

import vlmtrace as vt
from vlmtrace.core.paths import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
METHODS = sorted(path.parent.name for path in (ROOT / "vlmtrace" / "methods").glob("*/__init__.py"))


def blocks(path, language="python"):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.medium
@pytest.mark.parametrize("path", [ROOT / "README.md", DOCS / "start.md"], ids=name_of)
def test_examples_run(path):
    names: dict = {}
    found = blocks(path)
    assert found, f"{name_of(path)} has no example"
    # A hundred pairs say more and take longer; that there are as many in the README is checked.
    assert path.name != "README.md" or "n=100" in found[0]
    for block in found:
        exec(compile(block.replace("n=100", "n=24"), str(path), "exec"), names)
    effects = names["effects" if path.name == "start.md" else "heads"]
    assert not effects.empty and effects["patching_effect"].notna().any()


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_code_can_be_read_and_names_exist(path):
    for block in blocks(path):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("vlmtrace"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")
    for name in re.findall(r"`vt\.(\w+)", path.read_text()):
        assert name in vt.__all__, f"{name_of(path)}: vlmtrace has no {name}"
    for name in re.findall(r"`plots\.(\w+)", path.read_text()):
        assert name in vt.plots.__all__, f"{name_of(path)}: vlmtrace.plots has no {name}"
    for name in re.findall(r"`(?:vlmtrace|tests|docs)/[\w/.-]+`", path.read_text()):
        if "uncertainty" not in name and "vipllava" not in name and "_build" not in name:
            assert (ROOT / name.strip("`")).exists(), f"{name_of(path)}: there is no {name}"


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 70, "two screens"
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links and all((ROOT / link).exists() for link in links)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_page(method):
    path = DOCS / "methods" / f"{method}.md"
    assert path.is_file(), f"docs/methods/{method}.md is missing"
    text = path.read_text()
    for part in ("**What it measures.**", "**When to use it.**", "## Formula", "## Paper", "## Call it", "## Pitfalls"):
        assert part in text, f"{path.name} lacks {part}"
    assert re.search("^## Reading the figure", text, flags=re.MULTILINE) and f"api/vlmtrace.methods.{method}" in text
    assert method in (DOCS / "methods" / "index.md").read_text().split()
    assert f"methods/{method}`" in (DOCS / "choosing.md").read_text(), f"choosing.md does not name {method}"


FIVE_ANSWERS = ".*".join(rf"^\*\*{part}\*\* " for part in ("Measures", "Use it", "Returns", "Notebooks?", "Papers?"))


@pytest.mark.parametrize("method", [*METHODS, "the page's own example"])
def test_a_front_door_gives_five_answers(method):
    if method in METHODS:
        text = importlib.import_module(f"vlmtrace.methods.{method}").__doc__
        assert (ROOT / "vlmtrace" / "methods" / method / "__init__.pyi").is_file()
    else:
        text = ast.get_docstring(ast.parse(blocks(DOCS / "extending" / "method.md")[0]))
    assert re.search(FIVE_ANSWERS, text, flags=re.MULTILINE | re.DOTALL), f"{method}: see docs/extending/method.md"


def test_every_figure_of_a_method_is_in_plots():
    figures = {
        name
        for path in (ROOT / "vlmtrace" / "methods").glob("*/*figures.py")
        for name in re.findall(r"^@paper_style\ndef (\w+)", path.read_text(), flags=re.MULTILINE)
    }
    assert len(figures) > 15
    missing = figures - set(vt.plots.__all__)
    assert not missing, f"vlmtrace/plots.py lacks {sorted(missing)}"


def test_notebooks_read_and_write_what_their_page_says():
    from vlmtrace.pipeline.stages import stages

    rows = re.findall(
        r"^\| \{doc\}`(\w+)` \|(.*)\|$", (DOCS / "notebooks" / "index.md").read_text(), flags=re.MULTILINE
    )
    assert [name for name, _ in rows] == [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    for name, row in rows:
        _, reads, writes, _ = row.split("|")
        stage = stages().get(name)
        if stage is not None:
            # What may be missing is no dependency: notebook 09 makes pairs of its own then.
            needed = "" if "if there is" in reads else reads
            assert set(re.findall(r"`(\w+)`", needed)) == set(stage.reads), name
            assert set(re.findall(r"`(\w+)`", writes)) == set(stage.writes), name


def test_messages_are_those_of_the_package():
    from generators.reference import sentence

    def pattern(text):
        return re.sub(r"[…\s.]+", " ", text.replace("`", "")).strip()

    # A message is one string of the source, whether or not it is raised where it is written.
    trees = [ast.parse(path.read_text()) for path in (ROOT / "vlmtrace").rglob("*.py")]
    strings = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.Constant))
    known = {pattern(sentence(node)) for node in strings}
    rows = re.findall(r"^\| (?!message|---)(.*?) \|", (DOCS / "messages.md").read_text(), flags=re.MULTILINE)
    assert len(rows) > 25
    for message in rows:
        assert any(pattern(message) in text for text in known), f"no message of the package reads {message!r}"


def test_the_changelog_names_modules_that_exist():
    table = re.findall(r"^  \| (`vlmtrace.*) \| (.*) \|$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert len(table) > 20
    for _, new in table:
        for name in re.findall(r"`(vlmtrace[\w.]*)`", new):
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                module, _, attribute = name.rpartition(".")
                assert hasattr(importlib.import_module(module), attribute), f"CHANGELOG.md: there is no {name}"


def test_targets_of_make_exist():
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]:
        named = re.findall(r"^(?: {4}|`)make ([a-z-]+)|`make ([a-z-]+)", path.read_text(), flags=re.MULTILINE)
        unknown = {a or b for a, b in named} - known
        assert not unknown, f"{name_of(path)}: make has no target {unknown}"


def test_doors_of_the_repository():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step.get("run") for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in steps and "make docs" in steps
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        template = yaml.safe_load(path.read_text())
        if path.name != "config.yml":
            assert {"name", "description", "body"} <= set(template)
            ids = [field["id"] for field in template["body"]]
            assert len(ids) == len(set(ids))
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"], "versions come from constraints.txt"
    entries = [hook["entry"] for repository in hooks for hook in repository["hooks"]]
    assert all(entry.startswith(".venv/bin/") for entry in entries)
    assert {"ruff", "mypy"} <= {entry.split()[0].rpartition("/")[2] for entry in entries}


# Extending: the pages' own examples ------------------------------------------------------------


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a module as a package with an entry point, as pip would lay it out."""
    from vlmtrace.models.families import registry as family_registry
    from vlmtrace.tasks import registry as task_registry

    def forget():
        task_registry.declared.cache_clear()
        family_registry._found.cache_clear()

    def put(name, source, group, target):
        info = tmp_path / "site" / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (tmp_path / "site" / f"{name}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {name}:{target}\n")
        monkeypatch.syspath_prepend(tmp_path / "site")
        forget()

    yield put
    monkeypatch.undo()
    forget()


def test_adding_a_family(install, tmp_path, monkeypatch):
    import torch
    from fixtures import families
    from fixtures.models import scramble

    from vlmtrace.models.families import registry

    page = blocks(DOCS / "extending" / "family.md")
    (declaration,) = (block for block in page if "FamilySpec(" in block)
    (builder,) = (block for block in page if "def vipllava" in block)
    # Whoever follows the page has the file in the package: here it must come from the page.
    others = tuple(module for module in registry.own_modules() if not module.__name__.endswith(".vipllava"))
    monkeypatch.setattr(registry, "own_modules", lambda: others)
    registry._found.cache_clear()
    torch.manual_seed(0)
    names = dict(vars(families))
    exec(compile(builder, "family.md", "exec"), names)
    model, prepare = names["vipllava"]()
    scramble(model, seed=1)
    model.save_pretrained(tmp_path / "vip")
    prepare.save_pretrained(tmp_path / "vip")
    with pytest.warns(UserWarning, match=r"which vlmtrace does not know\. Its parts were guessed"):
        assert list(vt.load_model(tmp_path / "vip").blocks) == ["language_model"]
    install("vip_family", declaration, "vlmtrace.families", "FAMILIES")
    loaded = vt.load_model(tmp_path / "vip")
    assert loaded.uses_fast_sweep and list(loaded.blocks) == ["vision_encoder", "language_model"]


def test_adding_a_data_set(install, tmp_path, monkeypatch):
    from vlmtrace.tasks import registry

    # As for a family: it must come from the page.
    others = [task for task in registry._of_this_package() if task.name != "weather"]
    monkeypatch.setattr(registry, "_of_this_package", lambda: iter(others))
    source, pairs, declared, *_ = blocks(DOCS / "extending" / "dataset.md")
    install("weather_task", "\n\n".join([source, pairs, declared]), "vlmtrace.tasks", "DECLARED")
    for turn, label in enumerate(("sunny", "rainy", "foggy", "sandy")):
        for i in range(2):
            save(photograph(turn=20 * turn + i + 1), tmp_path / "weather" / label / f"{i}.png")
    model = vt.load_model("tiny-blip")
    prepared = vt.prepare_pairs("weather", root=tmp_path / "weather", n=4, model=model.count_tokens)
    assert prepared.source["citation"] == "Doe (2025): Weather"
    assert set(prepared.pairs["correct_answer"]) <= {"sunny", "rainy", "foggy"} and len(prepared.pairs) == 4
    assert "'sandy' is no kind of weather" in set(prepared.set_aside["reason"])
    with pytest.raises(vt.VlmtraceError, match="folders sunny, rainy, snowy"):
        vt.load_pairs("weather")


@pytest.mark.slow
def test_adding_a_method(tmp_path):
    interface, stub, computation, *_ = blocks(DOCS / "extending" / "method.md")
    shutil.copytree(
        ROOT / "vlmtrace", tmp_path / "vlmtrace", ignore=shutil.ignore_patterns("__pycache__", "uncertainty")
    )
    shutil.copytree(ROOT / "tests" / "fixtures", tmp_path / "tests" / "fixtures")
    for name in ("test_layers.py", "conftest.py"):
        shutil.copy(ROOT / "tests" / name, tmp_path / "tests" / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    room = tmp_path / "vlmtrace" / "methods" / "uncertainty"
    room.mkdir()
    for name, text in (("__init__.py", interface), ("__init__.pyi", stub), ("entropy.py", computation)):
        (room / name).write_text(text)
    code = (
        "import math, vlmtrace as vt; from vlmtrace.methods.uncertainty import answer_entropy\n"
        "model = vt.load_model('tiny-blip'); pairs = vt.load_pairs('rendered_states', n=4)\n"
        "table = answer_entropy(model, pairs)\n"
        "assert table.columns.tolist() == ['sample_id', 'entropy'] and len(table) == 4, table\n"
        "assert table['entropy'].between(0, math.log2(236)).all(), table\n"
    )
    environment = {"VLMTRACE_HOME": str(ROOT), "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    layers = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "tests/test_layers.py"]
    layers += ["-k", "every_module or circle or uncertainty"]
    result = subprocess.run(layers, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert "test_imports_go_down[methods.uncertainty.entropy] PASSED" in result.stdout
