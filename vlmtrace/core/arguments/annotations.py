"""From an annotation to the kind of argument that it means."""

from __future__ import annotations

import collections.abc as abc
import types
import typing
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from vlmtrace.core.arguments.containers import AtLeast, Either, GoneThrough, Listed, Named, Row
from vlmtrace.core.arguments.kinds import Anything, DataTable, Instance, Kind, Number, Numbers, Pixels, Truth, Whole

_PLAIN: dict[Any, Kind] = {
    Any: Anything(),
    object: Anything(),
    type(None): Instance(type(None), "None"),
    str: Instance(str, "a text"),
    bytes: Instance(bytes, "bytes"),
    bool: Truth(),
    int: Whole(),
    float: Number(),
    Path: Instance(PurePath, "a path"),
    Image.Image: Pixels(),
    pd.DataFrame: DataTable(),
    pd.Series: Instance(pd.Series, "a row or column of a table (pandas.Series)"),
    np.ndarray: Instance(np.ndarray, "an array (numpy.ndarray)"),
}


def kind_of(annotation: Any) -> Kind:
    """The kind that an annotation means.

    Args:
        annotation: a class, a union, a generic alias of a container, or `Annotated[…, kind]`

    Returns:
        the kind

    Raises:
        TypeError: the annotation is of a form that is not known here

    >>> kind_of(int | None).says
    'a whole number or None'
    >>> kind_of(list[str]).problem(["a", 1])
    Problem(expected='a text', found='1', remedy=None, place='[1]', depth=(1,))
    """
    if annotation is None:
        annotation = type(None)
    if annotation == npt.ArrayLike:
        return Numbers()
    if isinstance(annotation, typing.TypeVar):
        return Anything()
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        kind = next((extra for extra in inner[1:] if hasattr(extra, "problem")), None) or kind_of(inner[0])
        bound = next((extra for extra in inner[1:] if isinstance(extra, AtLeast)), None)
        return replace(kind, least=bound.least) if bound and isinstance(kind, Listed) else kind
    if origin in (typing.Union, types.UnionType):
        return Either(tuple(kind_of(part) for part in inner))
    bare = origin or annotation
    if bare is typing.Literal:
        return Instance(str, "a text")
    if bare is abc.Callable:
        return Instance(abc.Callable, "a function")
    if bare is tuple and inner and inner[-1] is not Ellipsis:
        return Row(tuple(kind_of(part) for part in inner))
    if bare in (list, tuple, abc.Sequence):
        of = kind_of(inner[0]) if inner else Anything()
        word = "tuple" if bare is tuple else "list"
        return Listed(of, f"a {word}{_of_many(of)}", () if bare is abc.Sequence else (bare,))
    if bare in (abc.Iterable, abc.Iterator, abc.Collection):
        of = kind_of(inner[0]) if inner else Anything()
        return GoneThrough(of, f"a list{_of_many(of)}")
    if bare in (dict, abc.Mapping):
        key, of = (kind_of(part) for part in inner) if inner else (Anything(), Anything())
        return Named(key, of)
    if bare in _PLAIN:
        return _PLAIN[bare]
    if isinstance(bare, type):
        place = bare.__module__.partition(".")[0]
        return Instance(bare, f"a {place}.{bare.__name__}")
    raise TypeError(f"no kind of argument is known for the annotation {annotation!r}")


def _of_many(kind: Kind) -> str:
    """The kind behind "a list", as in " of whole numbers"."""
    if isinstance(kind, Anything):
        return ""
    article, _, rest = kind.says.partition(" ")
    first, *others = rest.split(" ")
    plural = {"text": "texts", "path": "paths", "list": "lists", "tuple": "tuples", "number": "numbers"}
    if article not in ("a", "an") or (" or " in kind.says):
        return f", each {kind.says}"
    if first == "whole" and others[:1] == ["number"]:
        return " ".join([" of whole numbers", *others[1:]])
    return " ".join([f" of {plural[first]}", *others]) if first in plural else f", each {kind.says}"
