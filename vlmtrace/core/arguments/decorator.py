"""The decorator: arguments are checked before a function runs."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from vlmtrace.core.arguments.annotations import kind_of
from vlmtrace.core.arguments.containers import handed_on
from vlmtrace.core.arguments.kinds import Kind
from vlmtrace.core.arguments.meanings import NamedAsIn
from vlmtrace.core.errors import VlmtraceError

#: Where a table or a model comes from, by the parameter's name.
REMEDIES = {
    "name_or_path": "give its name or directory, or take a model that is in memory with vt.wrap_model",
    "model": "load it with vt.load_model",
    "pairs": "load it with vt.load_pairs",
    "questions": "load it with vt.load_questions",
    "evaluated": "make it with vt.evaluate",
    "selected": "make it with vt.select_samples",
    "module_patching": "make it with vt.patch_modules",
    "head_patching": "make it with vt.patch_heads",
    "whole_heads": "make it with vt.patch_whole_heads",
}

F = TypeVar("F", bound=Callable[..., Any])

#: Stands for "no default": every value differs from it.
_NONE = object()


def checked(function: F) -> F:
    """Check the arguments of a function, or of the making of a class's objects, before it runs.

    Args:
        function: a function, method or class whose parameters have annotations

    Returns:
        the function with its name, signature and documentation, or the class itself

    Example:
        >>> from vlmtrace.core.arguments import Count
        >>> @checked
        ... def halves(n: Count = 1) -> float:
        ...     return n / 2
        >>> halves(3)
        1.5
        >>> try:
        ...     halves(True)
        ... except VlmtraceError as error:
        ...     print(error)
        halves: n must be a whole number from 1 to 1,000,000, not True: correct it.
    """
    if isinstance(function, type):
        function.__init__ = _checked(function.__init__, function.__qualname__)  # type: ignore[misc]
        return function
    return _checked(function, function.__qualname__.removesuffix(".__init__"))


def _checked(function: Any, name: str) -> Any:
    arguments = Arguments(function, name)

    @functools.wraps(function)
    def with_checked_arguments(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = arguments.check(args, kwargs)
        return function(*args, **kwargs)

    with_checked_arguments.arguments = arguments  # type: ignore[attr-defined]
    return with_checked_arguments


class Arguments:
    """The parameters of a function, and what each must be.

    Attributes:
        function: the plain function
        name: what sentences call it
        parameters: by name, as the signature has them
    """

    def __init__(self, function: Any, name: str):
        self.function, self.name = inspect.unwrap(function), name
        self.parameters = dict(inspect.signature(self.function).parameters)
        self._kinds: dict[str, Kind] = {}
        self._defaults = {
            label: _NONE if parameter.default is parameter.empty else parameter.default
            for label, parameter in self.parameters.items()
        }
        self._positional = self._of_kind("POSITIONAL_ONLY") + self._of_kind("POSITIONAL_OR_KEYWORD")
        self._rest = "".join(self._of_kind("VAR_POSITIONAL"))
        self._others = "".join(self._of_kind("VAR_KEYWORD"))

    def _of_kind(self, kind: str) -> list[str]:
        return [label for label, parameter in self.parameters.items() if parameter.kind.name == kind]

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Raise a sentence about the first argument that is not of its kind.

        Args:
            args: given by position
            kwargs: given by name

        Returns:
            (args, kwargs) to call the function with

        Raises:
            VlmtraceError: an argument is not what its annotation says
        """
        labels = self._positional
        if len(args) > len(labels):  # of `*rest`, or too many, which Python will say
            labels = [*labels, *[self._rest] * (len(args) - len(labels))]
        defaults = self._defaults
        args = tuple(
            value if value is defaults.get(label, _NONE) else self.check_one(label, value)
            for label, value in zip(labels, args, strict=False)
        )
        kwargs = {
            label: value if value is defaults.get(label, _NONE) else self.check_one(label, value)
            for label, value in kwargs.items()
        }
        return args, kwargs

    def check_one(self, label: str, value: Any) -> Any:
        """Raise a sentence if a value cannot be the argument of this name; a name that there is not is left to Python.

        Args:
            label: the parameter's name
            value: what is given for it

        Returns:
            what the function is to get

        Raises:
            VlmtraceError: it is not what the annotation says
        """
        kind = self.kind(label)
        if kind is None:
            return value
        problem = kind.problem(value)
        if problem is None:
            return handed_on(kind, value)
        made = label == "name_or_path" or any(kind in problem.expected for kind in ("pandas.DataFrame", "VLM"))
        whence = REMEDIES.get(label) if made else None
        remedy = problem.remedy or whence or "correct it"
        raise VlmtraceError(
            f"{self.name}: {label}{problem.place} must be {problem.expected}, not {problem.found}: {remedy}."
        )

    def kind(self, label: str) -> Kind | None:
        """What the argument of this name must be.

        Args:
            label: a parameter's name, or that of a further keyword argument

        Returns:
            its kind; None: there is no such parameter, or it has no annotation
        """
        if label not in self.parameters:
            named = self.kind(self._others) if self._others else None
            return named.of(label) if isinstance(named, NamedAsIn) else named
        if label not in self._kinds:
            annotation = self.parameters[label].annotation
            if annotation is inspect.Parameter.empty:
                return None
            self._kinds[label] = kind_of(self._meaning(annotation))
        return self._kinds[label]

    def _meaning(self, annotation: Any) -> Any:
        """The object that an annotation's text stands for."""
        namespace: dict[str, Any] = {}
        while isinstance(annotation, str):
            try:
                holder = type("holder", (), {"__annotations__": {"it": annotation}})
                known = {"globals": self.function.__globals__, "locals": namespace}
                annotation = inspect.get_annotations(holder, eval_str=True, **known)["it"]
            except NameError as error:
                if error.name is None or error.name in namespace:
                    raise
                namespace[error.name] = _type_checking_import(self.function.__module__, error.name)
        return annotation


def _type_checking_import(module_name: str, name: str) -> Any:
    """What a module imports under this name for type checkers only."""
    module = sys.modules[module_name]
    for block in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test):
            for statement in block.body:
                aliases = getattr(statement, "names", ())
                for alias in aliases:
                    if name != (alias.asname or alias.name.partition(".")[0]):
                        continue
                    if isinstance(statement, ast.ImportFrom):
                        return getattr(importlib.import_module(statement.module or ""), alias.name)
                    imported = importlib.import_module(alias.name)
                    return imported if alias.asname else sys.modules[name]
    raise NameError(f"{module_name} imports no {name}", name=name)
