"""Methods under test: each a function that gives edges or nodes of a model a score.

from vlmtrace.benchmarks.circuits.registry import circuit_method

@circuit_method("mine")
def mine(model, pairs, corruption):
    "What it does, in one line."
    return table  # sender, receiver, score; or node, score
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from vlmtrace.core.arguments import Count, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.models import VLM

#: Model, pairs and corruption -> a table with score, and either node, or sender and receiver.
Scoring = Callable[[VLM, pd.DataFrame, str], pd.DataFrame]


class Method(NamedTuple):
    """A method under test.

    Attributes:
        name: of its row
        function: that gives scores
        what: what it does, in a line
        most_pairs: how many pairs it is given at most; None: all
    """

    name: str
    function: Scoring
    what: str
    most_pairs: int | None = None

    @property
    def file(self) -> Path:
        """The file that the function stands in."""
        return Path(inspect.getfile(inspect.unwrap(self.function)))


#: By name, in the order of the rows.
METHODS: dict[str, Method] = {}


@checked
def circuit_method(name: str, most_pairs: Count | None = None) -> Callable[[Scoring], Scoring]:
    """Give a function a row of the benchmark.

    It is called with a loaded model, a pairs table and a corruption ("image" or "text"), and returns a table with the
    column `score` (the larger, the more a node or edge belongs to the circuit: magnitudes, where signs do not matter)
    and

    - `sender` and `receiver`, as `vt.edges` names them, one row per edge; a node's score is then that of the best edge
      that it sends; or
    - `node`: heads and mlps, as `vt.edges` names senders. A table without any mlp is scored over heads alone.

    With all three columns each row names a node or an edge, and what it does not name is missing. What the table
    leaves out ranks last. A column `draw` says that there are several rankings, whose figures are averaged.

    Args:
        name: of the row
        most_pairs: how many pairs it is given at most, if it is slow; None: all

    Returns:
        a decorator, which leaves the function as it is; the first line of its docstring says what it does

    Raises:
        VlmtraceError: another method has this name

    >>> @circuit_method("every head alike")
    ... def alike(model, pairs, corruption):
    ...     "Gives every head the same score."
    ...     senders = vt.edges(model)["sender"].astype(str)
    ...     return pd.DataFrame({"node": senders[senders.str.contains("attention")].unique(), "score": 1.0})
    >>> METHODS.pop("every head alike").what
    'Gives every head the same score.'
    """

    def register(function: Scoring) -> Scoring:
        method = _described(name, function)._replace(most_pairs=most_pairs)
        if name in METHODS and METHODS[name].file != method.file:
            raise VlmtraceError(f"There is a method {name!r} already, in {METHODS[name].file}: choose another name.")
        METHODS[name] = method
        return function

    return register


def _described(name: str, function: Scoring) -> Method:
    return Method(name, function, (inspect.getdoc(function) or name).splitlines()[0])


def chosen_methods(names: Sequence[str]) -> list[Method]:
    """Methods by their names.

    Args:
        names: of methods, or "module:function" of somebody's own, with the module on the path or in the working
            folder; none: all that are registered

    Returns:
        the methods, in the order of the names

    Raises:
        VlmtraceError: a name is unknown, or a function is not found
    """
    if not names:
        return list(METHODS.values())
    return [_own(name) if ":" in name else METHODS[one_of(name, METHODS, "method")] for name in names]


def _own(path: str) -> Method:
    module, _, name = path.partition(":")
    if not module or not name.isidentifier():
        raise VlmtraceError(f"{path!r} is not the name of a function: write module:function, such as my_methods:mine.")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise VlmtraceError(
            f"There is no module {error.name!r} for the method {path!r}: start in its folder, or install it."
        ) from error
    except AttributeError as error:
        raise VlmtraceError(f"The module {module} has no function {name!r}: correct the method {path!r}.") from error
    known = next((one for one in METHODS.values() if one.function is function), None)
    if not callable(function):
        raise VlmtraceError(f"{path!r} is no function: a method is called with a model, pairs and a corruption.")
    return known or _described(path, function)
