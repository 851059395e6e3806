"""Arguments of public functions: each wrong one gives one sentence, whatever function and parameter it is given to."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import subprocess
import sys
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch

import vlmtrace as vt
import vlmtrace.methods
from vlmtrace.core.arguments import Count, Natural, NotNegative, Positive, Probability, Seed, Share, checked
from vlmtrace.core.errors import VlmtraceError

if TYPE_CHECKING:
    from fractions import Fraction as ForTypeCheckersOnly

#: Where public names come from.
DOORS = [
    *("vlmtrace", "vlmtrace.plots", "vlmtrace.tasks", "vlmtrace.pipeline", "vlmtrace.app", "vlmtrace.display"),
    *("vlmtrace.inputs", "vlmtrace.models"),
    *(f"vlmtrace.methods.{room.name}" for room in pkgutil.iter_modules(vlmtrace.methods.__path__)),
]

#: Classes whose objects the package makes and hands out, and declarations of data sets and families, which have tests of
#: their own: nobody calls these with what a notebook's reader typed.
MADE_HERE = """
Block Explanation FamilySpec HookPoint Outcome Patch Patches Prepared Readout Relevancy Request Site Source Task Token
Trace
""".split()


def public_functions() -> Iterator[tuple[str, Callable]]:
    seen = set()
    for door in DOORS:
        for name in importlib.import_module(door).__all__:
            thing = getattr(importlib.import_module(door), name)
            if not getattr(thing, "__module__", "").startswith("vlmtrace") or id(thing) in seen:
                continue
            seen.add(id(thing))
            if inspect.isfunction(thing):
                yield f"{door}.{name}", thing
            elif inspect.isclass(thing) and name not in MADE_HERE:
                for label, member in vars(thing).items():
                    if inspect.isfunction(member) and (label == "__init__" or not label.startswith("_")):
                        yield f"{door}.{name}.{label}", member


FUNCTIONS = dict(public_functions())


def parameters(function: Callable) -> dict[str, str]:
    """The annotations of a function's parameters, as they stand in the source, if they say anything."""
    declared = inspect.signature(function).parameters.values()
    found = {one.name: str(one.annotation) for one in declared if one.annotation is not inspect.Parameter.empty}
    return {name: text for name, text in found.items() if text not in ("Any", "object") and "TypeVar" not in text}


#: By what stands in the annotation: values that are wrong wherever it does, unless another alternative allows them.
WRONG: dict[str, Sequence[Any]] = {
    "pd.DataFrame": (None, [], {}, Path("pairs.parquet"), "pairs.csv", 3, True, math.nan, object(), pd.Series([1])),
    "VLM": (None, [], {}, Path("tiny-blip"), "tiny-blip", 3, True, math.nan, object(), pd.DataFrame()),
    "Count": (None, [], {}, Path("3"), "x", "3", -1, 0, 2.5, math.nan, math.inf, True, 10**30, 10**5000, 3.0, object()),
    "Natural": (None, [], {}, "x", -1, 2.5, math.nan, math.inf, True, 10**30, 10**5000, np.float64(3.0), object()),
    "Seed": (None, [], {}, "x", "0", -1, 2.5, math.nan, math.inf, True, 2**32, 10**5000, np.float64(3.0), object()),
    "Share": (None, [], {}, "x", "0.5", -0.1, 1.1, math.nan, math.inf, -math.inf, True, 10**5000, object()),
    "Probability": (None, [], {}, "x", "0.5", 0, 1, math.nan, math.inf, True, 10**5000, np.bool_(True), object()),
    "Positive": (None, [], {}, "x", "0.5", -1, 0, math.nan, math.inf, True, 10**5000, np.float32("nan"), object()),
    "NotNegative": (None, [], {}, "x", "0.5", -1, math.nan, math.inf, True, 10**5000, object()),
    "int": (None, [], {}, "x", 2.5, math.nan, True, 10**30, 10**5000, object()),
    "float": (None, [], {}, "x", math.nan, math.inf, True, 10**5000, object()),
    "bool": (None, [], {}, "yes", 1, 0.0, math.nan, object()),
    "str": (None, [], {}, 3, 2.5, math.nan, True, object(), b"x"),
    "Path": (None, [], {}, 3, math.nan, True, object()),
    "Sequence": (None, {}, "image", 3, math.nan, True, object(), {"a"}, (x for x in "ab"), np.array(3)),
    "Mapping": (None, [], "x", 3, math.nan, True, object()),
    "Callable": (None, [], {}, "x", 3, math.nan, object()),
    "Tensor": (None, [], {}, "x", 3, math.nan, object(), np.zeros(3)),
    "np.ndarray": (None, [], {}, "x", 3, math.nan, object(), torch.zeros(3), pd.Series([1])),
    "Figure": (None, [], {}, "x", 3, math.nan, object()),
}

#: What makes a value of the list above right after all.
ALLOWS: dict[str, Callable[[Any], bool]] = {
    "None": lambda value: value is None,
    "str": lambda value: isinstance(value, str),
    "Path": lambda value: isinstance(value, Path),
    "Sequence": lambda value: isinstance(value, list),
    "Iterable": lambda value: isinstance(value, list),
    "Mapping": lambda value: isinstance(value, dict),
    "pd.Series": lambda value: isinstance(value, pd.Series),
    "pd.DataFrame": lambda value: isinstance(value, pd.DataFrame),
}

#: Aliases that hide what they stand for.
ALIASES = {
    "Positions": "str | Sequence[str] | Sequence[int]",
    "Picture": "Image | str | Path",
    "Inputs": "Mapping[str, Tensor]",
    "CountTokens": "Callable[[str], int]",
    "Array": "np.ndarray",
}


def alternatives(annotation: str) -> list[str]:
    """The alternatives of a union, each without what stands in brackets."""
    flat = ALIASES.get(annotation, annotation)
    depth, parts = 0, [""]
    for letter in flat:
        depth += (letter == "[") - (letter == "]")
        if letter == "|" and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [ALIASES.get(part.strip(), part.strip()).partition("[")[0] for part in parts]


def wrong_values(annotation: str) -> list[Any]:
    kinds = alternatives(annotation)
    kinds = [kind for part in kinds for kind in alternatives(part)]
    candidates = [value for kind in kinds for value in WRONG.get(kind, ())]
    numbers = {"Count", "Natural", "Seed", "Share", "Probability", "Positive", "NotNegative", "int", "float"} & set(
        kinds
    )
    return [
        value
        for value in candidates
        if not any(ALLOWS[kind](value) for kind in kinds if kind in ALLOWS)
        and not (
            numbers
            and isinstance(value, (int, float))
            and all(all(value is not one for one in WRONG[kind]) for kind in numbers)
        )
    ]


CASES = [
    (name, parameter, text) for name, function in FUNCTIONS.items() for parameter, text in parameters(function).items()
]


def test_the_walk_finds_what_there_is():
    assert len(FUNCTIONS) > 150 and len(CASES) > 400, "the walk over the front doors misses functions"
    known = {"vlmtrace.evaluate", "vlmtrace.plots.head_map", "vlmtrace.pipeline.Stage.resume", "vlmtrace.VLM.generate"}
    assert known <= set(FUNCTIONS), known - set(FUNCTIONS)
    tried = sum(len(wrong_values(text)) for _, _, text in CASES)
    assert tried > 3000, f"only {tried} wrong values are tried"


@pytest.mark.parametrize(("name", "parameter", "annotation"), CASES, ids=[f"{n}-{p}" for n, p, _ in CASES])
def test_every_wrong_argument_gives_one_sentence(name, parameter, annotation):
    function = FUNCTIONS[name]
    called = function.__qualname__.removesuffix(".__init__")
    for value in wrong_values(annotation):
        given = (
            ("self", value) if inspect.signature(function).parameters[parameter].kind.name == "VAR_POSITIONAL" else ()
        )
        shown = f"{name}({parameter}: {annotation}) given {type(value).__name__}"
        try:
            function(*given, **({} if given else {parameter: value}))
        except VlmtraceError as error:
            sentence = str(error)
            assert sentence.startswith(f"{called}: {parameter}"), f"{shown}: {sentence}"
            assert " must be " in sentence and ", not " in sentence and sentence.endswith("."), f"{shown}: {sentence}"
            assert len(sentence) <= 300 and "\n" not in sentence, f"{shown}: {sentence}"
        except Exception as error:
            pytest.fail(f"{shown}: {type(error).__name__}: {error}; put @checked above the function")
        else:
            pytest.fail(f"{shown}: accepted; put @checked above the function")
