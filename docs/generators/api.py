"""Pages of the API, from what `vlmtrace` and the interfaces of its rooms export."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

#: Rooms whose names a reader may import. The others (core, training) are the package's own.
ROOMS = (
    "vlmtrace.plots",
    "vlmtrace.models",
    "vlmtrace.models.families",
    "vlmtrace.tasks",
    "vlmtrace.inputs",
    *(f"vlmtrace.methods.{path.name}" for path in sorted(
        path for path in (Path(__file__).resolve().parents[2] / "vlmtrace" / "methods").iterdir()
        if (path / "__init__.py").is_file()
    )),
    "vlmtrace.display",
    "vlmtrace.pipeline",
    "vlmtrace.app",
    "vlmtrace.benchmarks",
)  # fmt: skip

#: The rooms that the public names come from, in the order in which an analysis uses them.
IN_USE = ("models", "tasks", "methods.evaluation", "methods.patching", "methods.attribution", "methods.knockout")


def heading(text: str, under: str = "=") -> str:
    """A heading in reStructuredText."""
    return f"{text}\n{under * len(text)}\n"


def described_fields(value: type) -> list[str]:
    """The fields that a class describes under `Attributes:`, which need no entry of their own."""
    section = re.split(r"^\S", (inspect.getdoc(value) or "").partition("Attributes:\n")[2], flags=re.MULTILINE)[0]
    names = re.findall(r"^ {2,4}(\w+(?:, \w+)*)(?: \([^)]*\))?:", section, flags=re.MULTILINE)
    return [name for line in names for name in line.split(", ")]


def entry(module: str, name: str, value: object) -> str:
    """The directive that documents one exported name."""
    if inspect.isclass(value):
        members = "" if issubclass(value, BaseException) else "\n   :members:"
        if members and (fields := described_fields(value)):
            members += f"\n   :exclude-members: {', '.join(fields)}"
        return f".. autoclass:: {module}.{name}{members}\n"
    if inspect.isroutine(value):
        return f".. autofunction:: {module}.{name}\n"
    shown = repr(value)
    # Long values are told by their keys, or by how many there are.
    if len(shown) > 200 and isinstance(value, Mapping):
        shown = repr(sorted(map(str, value)))
    shown = f"``{shown}``" if len(shown) <= 600 else f"A {type(value).__name__} of {len(value)} entries."  # type: ignore[arg-type]
    return f".. py:data:: {module}.{name}\n\n   {shown}\n"


def room_of(value: object) -> str:
    """The room that defines a function or class, such as "models" or "methods.patching"."""
    parts = getattr(value, "__module__", "").split(".")
    return ".".join(parts[1 : 3 if parts[1] == "methods" else 2])


def front_page() -> str:
    """The page of `vlmtrace`: its names by the room that they come from, in the order in which one uses them."""
    front = importlib.import_module("vlmtrace")
    by_room: dict[str, list[str]] = {room: [] for room in IN_USE}
    for name in front.__all__:
        value = getattr(front, name)
        if not isinstance(value, ModuleType):
            by_room.setdefault(room_of(value), []).append(name)
    parts = [heading("vlmtrace"), ".. automodule:: vlmtrace\n"]
    for room, names in by_room.items():
        parts.append(heading(room, "-"))
        # Functions before classes: one calls the former and is handed the latter.
        names.sort(key=lambda name: inspect.isclass(getattr(front, name)))
        parts += [entry("vlmtrace", name, getattr(front, name)) for name in names]
    parts += [heading("plots", "-"), "Every figure, see :doc:`vlmtrace.plots`.\n"]
    return "\n".join(parts)


def page(module: str, documented: dict[int, str]) -> str:
    """The page of one room; a name that another page documents already is linked here.

    Args:
        module: the room
        documented: by the id of a function or class, where it is documented; what this page documents is added
    """
    room = importlib.import_module(module)
    entries, links = [], []
    for name in room.__all__:
        value = getattr(room, name)
        if isinstance(value, ModuleType):
            continue
        if id(value) in documented:
            links.append(f":py:obj:`{documented[id(value)]}`")
            continue
        entries.append(entry(module, name, value))
        if inspect.isroutine(value) or inspect.isclass(value):
            documented[id(value)] = f"{module}.{name}"
    also = f"Documented elsewhere: {', '.join(links)}.\n" if links else ""
    return "\n".join([heading(module.removeprefix("vlmtrace.")), f".. automodule:: {module}\n", also, *entries])


def write(folder: Path) -> None:
    """Write the page of `vlmtrace`, one page for each room, and their index."""
    folder.mkdir(exist_ok=True)
    front = importlib.import_module("vlmtrace")
    names = [name for name in front.__all__ if callable(getattr(front, name))]
    documented = {id(getattr(front, name)): f"vlmtrace.{name}" for name in names}
    (folder / "vlmtrace.rst").write_text(front_page())
    # A room below another first: it is the one to document what both export.
    for module in sorted(ROOMS, key=lambda module: -module.count(".")):
        (folder / f"{module}.rst").write_text(page(module, documented))
    contents = "\n".join(f"   {module}" for module in ("vlmtrace", *ROOMS))
    (folder / "index.rst").write_text(
        f"{heading('API')}\n"
        "``import vlmtrace as vt`` gives the public names. They and their parameters change only with a line in the\n"
        "changelog. The other pages list what each room of the package exports; see :doc:`../design`.\n\n"
        f".. toctree::\n   :maxdepth: 1\n\n{contents}\n"
    )
