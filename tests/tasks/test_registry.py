"""Data sets declare themselves: what is listed follows from that, also for packages beside this one."""

import importlib
import re
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

import vlmtrace as vt
from vlmtrace import tasks
from vlmtrace.core import paths
from vlmtrace.tasks import registry
from vlmtrace.tasks.declaration import KINDS
from vlmtrace.tasks.rendered import words

#: A package of one data set: colored squares in a folder.
PACKAGE = """
import pandas as pd
from vlmtrace.core.paths import relative
from vlmtrace.tasks import Request, Source, Task

def make_pairs(request: Request) -> pd.DataFrame:
    rows = []
    for i, (correct, incorrect) in enumerate([("red", "blue"), ("blue", "red")][: request.n]):
        rows.append({
            "sample_id": f"square-{request.seed}-{i}", "task": request.task, "category": "color",
            "clean_image": relative(request.root / f"{correct}.png"),
            "corrupt_image": relative(request.root / f"{incorrect}.png"),
            "clean_prompt": "Is this square red or blue?", "corrupt_prompt": "Is this square green or yellow?",
            "correct_answer": correct, "incorrect_answer": incorrect, "correct_first": correct == "red",
        })
    return pd.DataFrame(rows)

SOURCE = Source("Squares", "https://example.org/squares", "CC0", "nobody", needs="a red and a blue square")
SQUARES = Task("squares", SOURCE, pairs=make_pairs)
TWICE = [Task("mit_states", SOURCE, pairs=make_pairs)]
NOT_A_TASK = "squares"
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package into a folder of its own, with the given entry points, as pip would lay it out."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    registry.declared.cache_clear()

    def put(name, source, **points):
        module = name.replace("-", "_")
        sys.modules.pop(module, None)  # another test's package may have had this name
        info = tmp_path / "site" / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (tmp_path / "site" / f"{module}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{point} = {module}:{target}" for point, target in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[vlmtrace.tasks]", *lines]) + "\n")

    yield put
    monkeypatch.undo()
    registry.declared.cache_clear()


@pytest.fixture
def squares(tmp_path):
    folder = tmp_path / "squares"
    folder.mkdir()
    for name, color in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        pixels = np.full((32, 32, 3), 230, dtype=np.uint8)
        pixels[8:24, 8:24] = color
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


# This package


def test_the_lists_follow_from_the_declarations():
    declared = tasks.declared()
    kinds = [task.kind for task in declared.values()]
    assert kinds == sorted(kinds, key=KINDS.index), "rendered ones first, the user's own last"
    assert set(kinds) == set(KINDS)
    assert set(registry.TASKS) | set(registry.QUESTIONS) == set(declared), "each gives pairs or questions"
    assert set(words.TASKS) <= {name for name in registry.TASKS if declared[name].kind == "rendered"}
    # Some of each that must be there, whatever is added.
    assert {"coco_qa", "csv", "folder", "svo_probes"} <= set(registry.ROOTED) < set(registry.TASKS)
    assert {"rendered_open", "coco_qa", "clevr"} <= set(registry.QUESTIONS)
    assert set(words.TASKS).isdisjoint(registry.ROOTED) and not {"rendered_open", "clevr"} & set(registry.TASKS)
    with pytest.raises(AttributeError):
        registry.SOURCES  # noqa: B018


def test_one_module_declares_each_data_set():
    folder = paths.ROOT / "vlmtrace" / "tasks"
    texts = [path for path in folder.rglob("*.py") if re.search("^DECLARED\\b", path.read_text(), flags=re.MULTILINE)]
    modules = {path.relative_to(folder).parts[0].removesuffix(".py") for path in texts}
    assert len(modules) == len(texts), "two files of one folder declare data sets: only the folder's own is read"
    found = [task for name in modules for task in importlib.import_module(f"vlmtrace.tasks.{name}").DECLARED]
    names = [task.name for task in found]
    assert len(set(names)) == len(names), "a data set is declared twice"
    assert set(names) == set(tasks.declared()), "a declaration that nobody reads"
    published = [re.escape(task.name) for task in found if task.kind == "published"]
    named = re.compile(rf"\b({'|'.join(published)})\b")
    for module in ("loading", "registry", "declaration"):
        code = re.sub(r'""".*?"""', "", (folder / f"{module}.py").read_text(), flags=re.DOTALL)
        assert not named.search(code), f"{module} knows a data set by name"


def test_the_table_of_data_sets_says_what_one_needs():
    table = tasks.task_table().set_index("name")
    assert list(table.index) == list(tasks.declared())
    assert (table[["source", "url", "licence", "citation"]] != "").all(axis=None)
    assert set(table.index[table["needs"] != ""]) == {
        name for name, task in tasks.declared().items() if task.needs_root
    }
    assert table.loc["coco_qa", "gives"] == "pairs, questions" and table.loc["csv", "kind"] == "own"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"task": "rendered_states", "split": "validation"},
            "has no split 'validation': choose one of",
        ),
        ({"task": "csv", "split": "train"}, "The task csv has no split 'train': leave split out"),
        ({"task": "rendered_states", "question": "Is it {a} or {b}?"}, "a question goes with the task 'folder'"),
        ({"task": "rendered_open"}, "Unknown task 'rendered_open'"),
        ({"task": "rendered_states", "n": 0}, "n must be a whole number from 1"),
    ],
)
def test_what_a_data_set_does_not_declare_is_refused(arguments, sentence):
    with pytest.raises(vt.VlmtraceError, match=sentence):
        vt.load_pairs(**arguments)


# Packages beside it


def test_a_package_adds_a_data_set(install, squares):
    install("tiny-squares", PACKAGE, squares="SQUARES")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.TASKS[-1] == "squares" and registry.ROOTED[-1] == "squares"
    prepared = vt.prepare_pairs("squares", n=2, root=squares)
    assert prepared.pairs["correct_answer"].tolist() == ["red", "blue"]
    assert prepared.filters["rows_used"].tolist() == [2] and prepared.source["licence"] == "CC0"
    usable, set_aside = vt.check_pairs(vt.load_model("tiny-blip"), prepared.pairs)
    assert len(usable) == 2 and set_aside.empty
    with pytest.raises(vt.VlmtraceError, match=r"get a red and a blue square \(https://example\.org/squares\)"):
        vt.load_pairs("squares", root="/no/such/place")


def test_the_pairs_of_a_package_keep_the_contract_or_are_refused(install, squares):
    install("tiny-squares", PACKAGE.replace('"category": "color",', ""), squares="SQUARES")
    with pytest.raises(vt.VlmtraceError, match="The pairs table has no column 'category'"):
        vt.load_pairs("squares", root=squares)


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("import module_that_is_nowhere", "SQUARES", "No module named 'module_that_is_nowhere'"),
        (PACKAGE, "MISSING", "has no attribute 'MISSING'"),
        (PACKAGE, "NOT_A_TASK", "holds 's', which is no vlmtrace.tasks.Task"),
        (PACKAGE, "TWICE", "there is a data set mit_states already"),
        (PACKAGE.replace("pairs=make_pairs)", "kind='odd', pairs=make_pairs)"), "SQUARES", "Unknown kind of data set"),
    ],
)
def test_a_broken_package_is_one_sentence_and_hinders_nobody(install, squares, source, target, reason):
    install("broken-squares", source, squares=target)
    install("good-squares", PACKAGE, squares="SQUARES")
    with pytest.warns(UserWarning, match=f"The data sets of the package broken-squares .*{re.escape(reason)}") as said:
        assert registry.TASKS[-1] == "squares"
    assert len([warning for warning in said if "of the package" in str(warning.message)]) == 1
    assert len(vt.load_pairs("squares", root=squares)) == 2
    assert len(vt.load_pairs("rendered_states", n=2)) == 2
