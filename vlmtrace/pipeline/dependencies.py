"""Which of the package's modules decide about a stage's tables: read from imports, never listed by hand."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

#: The folder of the package.
PACKAGE = Path(__file__).resolve().parents[1]

#: Modules that draw or serve what others computed: no number of a table comes from them.
DRAWING = ("app", "display", "pipeline", "plots")
DRAWING_FILES = ("figures", "explorers", "view")

#: Rooms whose modules find each other without imports (families and data sets declare themselves): all or none.
WHOLE_ROOMS = ("models", "tasks")


def modules_of(package: Path = PACKAGE) -> dict[str, Path]:
    """Every module's file by its dotted name; the package's own name is left out, as in "core.errors"."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts) or package.name] = path
    return found


def imports_of(
    name: str, source: str, known: Mapping[str, object], is_stub: bool = False, package: str = PACKAGE.name
) -> set[str]:
    """The modules of the package that a module imports, anywhere in its text and also under TYPE_CHECKING.

    Args:
        name: the module's dotted name
        source: its text
        known: all modules of the package
        is_stub: relative imports are understood, too: those of a front door's stub
        package: the package's name
    """
    return {module for module, _ in _imported(name, source, known, is_stub, package)} - {name}


def modules_used_by(notebook: Path, drawing: bool = False, package: Path = PACKAGE) -> set[str]:
    """The modules that a notebook's cells import, through front doors or as `vt.name`, and what these import in turn.

    Args:
        notebook: its path
        drawing: with the modules that only draw; without them: those that decide about the notebook's tables
        package: the package's folder
    """
    known, doors = modules_of(package), _front_doors(package)
    found = set()
    for source in code_cells(notebook):
        for module, name in _imported("", source, known, False, package.name):
            found.add(doors.get((module, name), module))
        found |= {doors[package.name, name] for name in _attributes(source) if (package.name, name) in doors}
    return _closure(found - {package.name}, drawing, package)


def modules_behind(module: str, package: Path = PACKAGE, drawing: bool = True) -> set[str]:
    """A module and all that it imports in turn.

    Args:
        module: its dotted name
        package: the package's folder
        drawing: with the modules that only draw
    """
    return _closure({module}, drawing, package)


def code_digest(modules: Iterable[str], package: Path = PACKAGE) -> str:
    """Identifies the text of these modules."""
    known = modules_of(package)
    digest = hashlib.sha256()
    for name in sorted(modules):
        digest.update(f"{name}\n".encode() + known[name].read_bytes())
    return digest.hexdigest()[:16]


def code_cells(notebook: Path) -> list[str]:
    """The text of a notebook's code cells, without the lines that are not Python (%magic and !commands)."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return ["\n".join(line for line in text.splitlines() if not line.startswith(("%", "!"))) for text in texts]


def _imported(name: str, source: str, known: Mapping[str, object], is_stub: bool, package: str) -> set[tuple[str, str]]:
    """(module, name): what is imported from where; the name is empty where it is a module itself."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                if not is_stub:
                    raise ValueError(f"{name} imports relatively: write the whole name")
                module = ".".join(filter(None, [package if name == package else f"{package}.{name}", module]))
            short = module.removeprefix(f"{package}.")
            names = []
            for alias in node.names:
                # `from package.room import module` imports the module, not only its room.
                inner = alias.name if short == package else f"{short}.{alias.name}"
                names.append((f"{package}.{inner}", "") if inner in known else (module, alias.name))
        else:
            continue
        found |= {(n.removeprefix(f"{package}."), a) for n, a in names if n.split(".")[0] == package}
    return found


@functools.cache
def _front_doors(package: Path) -> dict[tuple[str, str], str]:
    """(front door, name) -> the module that a stub says the name comes from."""
    known, found = modules_of(package), {}
    for door, path in known.items():
        stub = path.with_suffix(".pyi")
        if path.name == "__init__.py" and stub.is_file():
            for module, name in _imported(door, stub.read_text(), known, True, package.name):
                found[door, name or module.rpartition(".")[2]] = module
    return found


@functools.cache
def _imports(package: Path) -> dict[str, set[str]]:
    known, doors = modules_of(package), _front_doors(package)
    found = {}
    for name, path in known.items():
        pairs = _imported(name, path.read_text(), known, False, package.name)
        found[name] = {doors.get(pair, pair[0]) for pair in pairs} - {name, package.name}
    return found


def _closure(modules: set[str], drawing: bool, package: Path) -> set[str]:
    imports = _imports(package)
    found: set[str] = set()
    todo = {name for name in modules if drawing or not _draws(name)}
    while todo:
        name = todo.pop()
        found.add(name)
        room = name.split(".")[0]
        reached = set(imports[name])
        if room in WHOLE_ROOMS:
            reached |= {other for other in imports if other.split(".")[0] == room}
        todo |= {other for other in reached if drawing or not _draws(other)} - found
    return found


def _draws(name: str) -> bool:
    return name.split(".")[0] in DRAWING or name.rpartition(".")[2].endswith(DRAWING_FILES)


def _attributes(source: str) -> set[str]:
    """The names that a cell takes from `vt`."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "vt"}
