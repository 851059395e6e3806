"""The rooms of the package and who imports whom, drawn from the imports themselves."""

from __future__ import annotations

import ast
from collections import Counter
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "vlmtrace"

#: What a room is for, one line each. A room that is missing here stops the build.
ROOMS = {
    "vlmtrace": "the public names: vt.load_model, vt.patch_heads, …",
    "benchmarks": "how fast the sweep is, and against what",
    "training": "how the bundled models were trained",
    "app": "the explorer as tabs, its server",
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


def modules() -> dict[str, list[Path]]:
    """Dotted name, with the package's own, and the files (module and stub) of every module."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = [file for file in (path, path.with_suffix(".pyi")) if file.is_file()]
    return found


def imports() -> dict[str, set[str]]:
    """The modules that each module imports, wherever in its text, stubs of lazy interfaces included."""
    known = modules()
    found = {}
    for name, files in known.items():
        package = name if files[0].name == "__init__.py" else name.rpartition(".")[0]
        used: set[str] = set()
        for node in (node for file in files for node in ast.walk(ast.parse(file.read_text()))):
            if isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = package.rsplit(".", node.level - 1)[0] if node.level else ""
                base = ".".join(filter(None, [above, node.module]))
                used |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names}
        found[name] = {other for other in used if other in known} - {name}
    return found


def between(level: int, inside: str = "vlmtrace") -> Graph:
    """How many modules of one room import from another room, for the rooms at a level below a package."""

    def room(module: str) -> str | None:
        parts = module.split(".")
        if not module.startswith(f"{inside}."):
            return "vlmtrace" if inside == "vlmtrace" else None
        return parts[level] if len(parts) > level else None

    graph: Graph = {}
    for module, others in imports().items():
        here = room(module)
        if here is None or here.startswith("__"):
            continue
        graph.setdefault(here, Counter())
        rooms = {there for there in map(room, others) if there is not None and there != here}
        graph[here].update(rooms)
    return graph


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
    middle = {room: pad + step * i + step // 2 for i, room in enumerate(rooms)}
    reach = (len(rooms) - 1) * step * 0.5 + 40
    total = left + width + reach
    parts = [
        f'<svg class="house" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total:.0f} {height}" role="img" '
        'font-family="system-ui, sans-serif">',
        f"<title>{escape(caption)}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="11" markerHeight="11" markerUnits="userSpaceOnUse" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#4a6fa5"/></marker></defs>',
        f'<rect width="{total:.0f}" height="{height}" fill="white"/>',
    ]
    edge = left + width
    for room in rooms:
        for other, count in graph[room].items():
            start, end = middle[room] + 6, middle[other] - 6
            bulge = edge + 12 + (end - start) * 0.62
            thickness = 0.8 + 0.55 * count**0.5
            parts.append(
                f'<path d="M{edge},{start} C{bulge:.0f},{start} {bulge:.0f},{end} {edge + 3},{end}" fill="none" '
                f'stroke="#4a6fa5" stroke-opacity="0.55" stroke-width="{thickness:.1f}" marker-end="url(#tip)">'
                f"<title>{count} module{'s' * (count > 1)} of {room} import{'s' * (count == 1)} from {other}</title></path>"
            )
    for room in rooms:
        y = middle[room]
        parts.append(
            f'<rect x="{left}" y="{y - 17}" width="{width}" height="34" rx="5" fill="#eef2f8" stroke="#9db0cc"/>'
            f'<text x="{left + 12}" y="{y + 5}" font-size="15" font-weight="600" fill="#1b2a41">{room}</text>'
            f'<text x="{left + 150}" y="{y + 5}" font-size="12" fill="#43516a">{escape(words.get(room, ""))}</text>'
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
    graph = between(1)
    if graph.keys() != ROOMS.keys():
        raise ValueError(f"docs/generators/house.py: ROOMS and the package differ in {graph.keys() ^ ROOMS.keys()}")
    return in_page(drawing(graph, order(graph, list(ROOMS)), ROOMS, "Rooms of vlmtrace; imports go down"))


def methods() -> str:
    """The rooms of methods."""
    graph = between(2, "vlmtrace.methods")
    words = {room: question_of(room) for room in graph}
    return in_page(drawing(graph, order(graph, sorted(graph)), words, "Rooms of methods; imports go down"))
