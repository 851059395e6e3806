"""Warnings name the line that called the package, through decorators and however many functions lie between."""

import ast
import inspect
import warnings
from pathlib import Path

import pandas as pd
import pytest
from fixtures.raw_data import photograph, save

import vlmtrace as vt


def here():
    return inspect.currentframe().f_back.f_lineno


def csv_rows(folder):
    for i in range(3):
        save(photograph(turn=i + 1), folder / f"{i}.png")
    rows = [(f"{i}.png", f"{i + 1}.png", "What is it?", "cat", "dog") for i in range(2)]
    names = ["clean_image", "corrupt_image", "clean_prompt", "correct_answer", "incorrect_answer"]
    pd.DataFrame(rows, columns=names).to_csv(folder / "mine.csv", index=False)
    return folder / "mine.csv"


@pytest.mark.parametrize("load", [vt.load_pairs, vt.prepare_pairs])  # of which the first calls the second
def test_a_warning_about_a_csv_names_the_callers_line(tmp_path, load):
    root = csv_rows(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = here() + 1
        load("csv", root=root)
    assert [(one.filename, one.lineno) for one in caught] == [(__file__, line)]


@pytest.mark.parametrize("function", [vt.evaluate, vt.usable_pairs])
def test_a_warning_about_pairs_names_the_callers_line(random_blip, random_pairs, function):
    pairs = random_pairs.assign(
        correct_answer=[random_pairs["incorrect_answer"][0], *random_pairs["correct_answer"][1:]]
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = here() + 1
        function(random_blip, pairs)
    assert [(one.filename, one.lineno) for one in caught] == [(__file__, line)]


def test_everything_that_warns_does_it_so():
    """A number of frames is right only until a decorator is added."""
    package = Path(vt.__file__).parent
    direct = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(
            isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn"
            for node in ast.walk(ast.parse(path.read_text()))
        )
    ]
    assert direct == ["core/caller.py"]
