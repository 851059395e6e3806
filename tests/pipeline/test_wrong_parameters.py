"""Parameters of notebooks that are of another kind: one sentence before anything is computed, and no notebook goes on.

The cells run here one after the other, as in Jupyter after somebody has edited the first. Papermill injects the same.
"""

import ast
import contextlib
import math

import nbformat
import pytest

import vlmtrace as vt
from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError

pytestmark = pytest.mark.medium

NOTEBOOKS = sorted((paths.ROOT / "notebooks").glob("*.ipynb"))

#: How many cells may run before a wrong parameter is found: imports, and what opens the model and the stage.
CELLS = 2

WRONG_TEXTS = (None, 3, True, 2.5, math.nan, [], {}, ["a"])
WRONG_COUNTS = (True, -1, 0, 2.5, "x", "5", [], {}, math.nan, math.inf, 10**12)
WRONG_SEEDS = (True, -1, 2.5, "x", "0", None, [], {}, math.nan, 2**32, 10**30)

#: By the name of a parameter, the same in every notebook.
WRONG = {
    "samples": WRONG_COUNTS,
    "per_category": WRONG_COUNTS,
    "draws": (None, *WRONG_COUNTS),
    "n_random": (None, *WRONG_COUNTS),
    "n_drawn": WRONG_COUNTS,
    "blanks": (None, *WRONG_COUNTS),
    "conflicts": (2, *WRONG_COUNTS),
    "patched": WRONG_COUNTS,
    "layer_step": (None, *WRONG_COUNTS),
    "asked_else": (None, *WRONG_COUNTS),
    "threshold": (True, -1, 1.5, "x", [], {}, math.nan, math.inf),
    "seed": WRONG_SEEDS,
    "level": (True, -1, "x", [], math.nan, math.inf),
    "tasks": (None, "rendered_states", [], {}, 3, [3], [None], {"rendered_states"}),
    "model": WRONG_TEXTS,
    "beside": WRONG_TEXTS,
    "lead": WRONG_TEXTS,
    "positions": WRONG_TEXTS,
    "rewording": WRONG_TEXTS,
    "task": WRONG_TEXTS,
    "questions": WRONG_TEXTS,
    "run": WRONG_TEXTS,
    "device": WRONG_TEXTS,
    "dtype": WRONG_TEXTS,
    "device_map": (3, True, 2.5, [], math.nan),
    "quantization": (3, True, 2.5, [], {}, math.nan),
    "attn_implementation": (3, True, 2.5, [], {}, math.nan),
    "max_pixels": (True, -1, 2.5, "x", "5", [], {}, math.nan, math.inf),
    "image_size": (True, 2.5, {}, math.nan),
    "question": WRONG_TEXTS,
    "root": (3, True, math.nan, [], {}),
    "instruction": WRONG_TEXTS,
    "answer_prefix": WRONG_TEXTS,
    "prefix": WRONG_TEXTS,
    "same_size": (None, 0, 1, 2.5, "yes", "no", [], {}, math.nan),
}

#: Declared so that every stage of `make` takes the same ones, and said not to be needed.
NOT_NEEDED = {("03_select_samples", "model"), ("03_select_samples", "device")}

#: Where None is a number of samples, too: that of what there is.
ALL_OF_THEM = ("02_", "03_", "04_", "05_", "06_", "09_")


def code_cells(path):
    """(parameters by name, the sources of the cells that follow)."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    (first,) = (index for index, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", []))
    statements = ast.parse(cells[first].source).body
    return {one.targets[0].id: ast.literal_eval(one.value) for one in statements}, [
        cell.source for cell in cells[first + 1 :]
    ]


CASES = [(path, name) for path in NOTEBOOKS for name in code_cells(path)[0] if (path.stem, name) not in NOT_NEEDED]


@pytest.fixture
def fast_models(monkeypatch, tmp_path):
    """Models that are loaded once, and runs that nothing has written to."""
    load, loaded = vt.load_model, {}
    usual = {"device": "cpu", "dtype": "float32", "max_pixels": None}
    usual |= dict.fromkeys(("device_map", "quantization", "attn_implementation", "image_size"), "")

    def once(name, **options):
        if name in ("tiny-blip", "tiny-llava") and options == usual:
            return loaded.setdefault(name, MODELS.get(name) or load(name))
        return load(name, **options)

    monkeypatch.setattr(vt, "load_model", once, raising=False)
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    yield
    MODELS.update(loaded)


MODELS = {}


@pytest.mark.parametrize(("path", "name"), CASES, ids=[f"{path.stem}-{name}" for path, name in CASES])
def test_a_wrong_parameter_stops_a_notebook_with_a_sentence(path, name, fast_models, tmp_path):
    parameters, cells = code_cells(path)
    assert name in WRONG, f"say here what is wrong for the parameter {name} of {path.name}"
    needed = name == "samples" and not path.stem.startswith(ALL_OF_THEM)
    for value in (*WRONG[name], *[None] * needed):
        namespace = {**parameters, name: value, "display": print}
        said = None
        with contextlib.redirect_stdout(None):
            for number, source in enumerate(cells):
                try:
                    exec(compile(source, path.name, "exec"), namespace)
                except VlmtraceError as error:
                    said = str(error)
                    break
                assert number + 1 < CELLS, f"{name}={value!r} goes on after {CELLS} cells"
        assert said and len(said) <= 300 and "\n" not in said, f"{name}={value!r}: {said}"
        # The number of samples is the n of the function that makes them.
        named = any(f"{word}{more}" in said for word in (name, "n") for more in (" must be ", "[0] must be "))
        assert named or name in ("task", "run", "model"), f"{name}={value!r}: {said}"
        assert not (tmp_path / "runs").exists(), f"{name}={value!r} has written something"
