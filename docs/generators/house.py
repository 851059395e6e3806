"""The rooms of the package and who imports whom, drawn from the imports themselves."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable
from graphlib import TopologicalSorter
from html import escape

from vlmtrace.pipeline.dependencies import PACKAGE, imports_of, modules_of

#: What a room is for, one line each. A room that is missing here stops the build.
ROOMS = {
    "vlmtrace": "the public names: vt.load_model, vt.patch_heads, …",
    "benchmarks": "how fast the sweep is, and against what",
    "training": "how the bundled models were trained",
    "app": "the explorer, its server",
    "pipeline": "what make drives: stages, runs, report",
    "plots": "every public figure under one name",
    "methods": "one folder per method",
    "display": "what figures and widgets share",
    "tasks": "data sets, each of which declares itself",
    "inputs": "from a table's row to tensors",
    "models": "a vision-language model behind one interface",
    "core": "knows nothing of models: errors, files, statistics, schema",
}

Graph = dict[str, Counter[str]]


def imports() -> dict[str, set[str]]:
    """The modules that each module imports, wherever in its text, stubs of lazy interfaces included."""
    known = modules_of(PACKAGE)
    found = {}
    for name, path in known.items():
        found[name] = imports_of(name, path.read_text(), known)
        stub = path.with_suffix(".pyi")
        if stub.is_file():
            found[name] |= imports_of(name, stub.read_text(), known, is_stub=True)
    return found


def between(room_of: Callable[[str], str | None]) -> Graph:
    """How many modules of each room import from each other room.

    Args:
        room_of: a module's dotted name, without the package's own -> its room; None: it is left out
    """
    graph: Graph = {}
    for module, others in imports().items():
        here = room_of(module)
        if here is not None:
            graph.setdefault(here, Counter()).update({room_of(other) for other in others} - {here, None})
    return graph


def room(module: str) -> str | None:
    """The room of the package that a module is in."""
    name = module.split(".")[0]
    return None if name.startswith("__") else name


def method(module: str) -> str | None:
    """The method that a module belongs to."""
    first, *rest = module.split(".")
    return rest[0] if first == "methods" and rest else None


def order(graph: Graph, given: list[str]) -> list[str]:
    """The rooms from top to bottom, so that every import goes down; `given` decides where imports leave a choice.

    Raises:
        graphlib.CycleError: rooms import each other in a circle
    """
    sorter = TopologicalSorter({room: set() for room in graph})
    for room, others in graph.items():
        for other in others:
            sorter.add(other, room)
    sorter.prepare()
    found = []
    waiting: list[str] = []
    while sorter.is_active():
        waiting += sorter.get_ready()
        waiting.sort(key=given.index)
        room = waiting.pop(0)
        found.append(room)
        sorter.done(room)
    return found


def drawing(graph: Graph, rooms: list[str], words: dict[str, str], caption: str) -> str:
    """Rooms below each other, an arc for each import that goes down, as SVG."""
    step, left, width, pad = 46, 8, 600, 6
    height = step * len(rooms) + 2 * pad
    middle = {name: pad + step * i + step // 2 for i, name in enumerate(rooms)}
    reach = (len(rooms) - 1) * step * 0.5 + 40
    total = left + width + reach
    parts = [
        f'<svg class="house" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total:.0f} {height}" role="img" '
        'font-family="system-ui, sans-serif">',
        f"<title>{escape(caption)}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="11" markerHeight="11" '
        'markerUnits="userSpaceOnUse" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#4a6fa5"/></marker></defs>',
        f'<rect width="{total:.0f}" height="{height}" fill="white"/>',
    ]
    edge = left + width
    for name in rooms:
        for other, count in graph[name].items():
            start, end = middle[name] + 6, middle[other] - 6
            bulge = edge + 12 + (end - start) * 0.62
            thickness = 0.8 + 0.55 * count**0.5
            parts.append(
                f'<path d="M{edge},{start} C{bulge:.0f},{start} {bulge:.0f},{end} {edge + 3},{end}" fill="none" '
                f'stroke="#4a6fa5" stroke-opacity="0.55" stroke-width="{thickness:.1f}" marker-end="url(#tip)">'
                f"<title>{name} → {other}: {count} module{'s' * (count > 1)}</title></path>"
            )
    for name in rooms:
        y = middle[name]
        parts.append(
            f'<rect x="{left}" y="{y - 17}" width="{width}" height="34" rx="5" fill="#eef2f8" stroke="#9db0cc"/>'
            f'<text x="{left + 12}" y="{y + 5}" font-size="15" font-weight="600" fill="#1b2a41">{name}</text>'
            f'<text x="{left + 150}" y="{y + 5}" font-size="12" fill="#43516a">{escape(words.get(name, ""))}</text>'
        )
    return "\n".join([*parts, "</svg>"])


def question_of(room: str) -> str:
    """What a method's docstring says it answers: its first line, without the name, cut to the width of a box."""
    text = ast.get_docstring(ast.parse((PACKAGE / "methods" / room / "__init__.py").read_text())) or ""
    line = text.splitlines()[0].rpartition(": ")[2].rstrip(".")
    return line if len(line) <= 72 else line[: line.rfind(" ", 0, 70)] + " …"


def in_page(svg: str) -> str:
    """A drawing as a part of a page, so that its titles show when the mouse is over an arc."""
    return f"```{{raw}} html\n{svg}\n```"


def house() -> str:
    """All rooms of the package.

    Raises:
        ValueError: the package has a room that `ROOMS` does not describe, or lacks one that it does
    """
    graph = between(room)
    if graph.keys() != ROOMS.keys():
        raise ValueError(f"docs/generators/house.py: ROOMS and the package differ in {graph.keys() ^ ROOMS.keys()}")
    return in_page(drawing(graph, order(graph, list(ROOMS)), ROOMS, "Rooms of vlmtrace; imports go down"))


def methods() -> str:
    """The rooms of methods."""
    graph = between(method)
    words = {room: question_of(room) for room in graph}
    return in_page(drawing(graph, order(graph, sorted(graph)), words, "Rooms of methods; imports go down"))
