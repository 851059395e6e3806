"""The house of vlmtrace: rooms on a ladder, read from the imports.

Imports go down the ladder only, at the level of rooms and of modules, wherever in a file they stand and also under
TYPE_CHECKING. The rooms of `methods/` may use each other, but never in a circle.
"""

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import vlmtrace
from vlmtrace.pipeline.dependencies import imports_of, modules_of

PACKAGE = Path(vlmtrace.__file__).parent

#: From top to bottom: a room may import from itself and from those on lower steps.
LADDER = (
    ("vlmtrace", "__main__"),
    ("benchmarks",),
    ("training", "app"),
    ("pipeline",),
    ("plots",),
    ("methods",),
    ("display",),
    ("tasks",),
    ("inputs",),
    ("models",),
    ("core",),
)

#: Nothing but these modules may lie beside the rooms.
BESIDE_ROOMS = {"__init__", "__main__", "plots"}

#: Rooms of one method each: whatever folders there are.
METHODS = {path.name for path in (PACKAGE / "methods").iterdir() if (path / "__init__.py").is_file()}


def room_of(module: str) -> str:
    return module.split(".")[0]


def step_of(module: str) -> int:
    return next(step for step, rooms in enumerate(LADDER) if room_of(module) in rooms)


MODULES = modules_of(PACKAGE)
IMPORTS = {name: imports_of(name, path.read_text(), MODULES) for name, path in MODULES.items()}
#: Front doors import on demand what their stubs name, relatively, as lazy_loader has it.
for name, path in MODULES.items():
    if path.with_suffix(".pyi").is_file():
        IMPORTS[name] |= imports_of(name, path.with_suffix(".pyi").read_text(), MODULES, is_stub=True)


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_every_module_is_in_a_room():
    rooms = {room for step in LADDER for room in step} - {"vlmtrace", "__main__", "plots"}
    beside = {path.stem for path in PACKAGE.glob("*.py")} - BESIDE_ROOMS
    assert not beside, f"{beside} lie beside the rooms: put each into one of {sorted(rooms)}"
    folders = {path.name for path in PACKAGE.iterdir() if any(path.glob("**/*.py"))}
    assert folders == rooms, f"rooms unknown to the ladder, or missing: {folders ^ rooms}"
    assert not [p.stem for p in (PACKAGE / "methods").glob("*.py") if p.stem != "__init__"], "a method is a folder"


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name):
    if name == "vlmtrace":
        return
    upward = {other for other in IMPORTS[name] if step_of(other) < step_of(name)}
    assert not upward, f"{name} imports {sorted(upward)} from a higher room: move what both need down"
    aside = {other for other in IMPORTS[name] if step_of(other) == step_of(name) and room_of(other) != room_of(name)}
    assert not aside, f"{name} imports {sorted(aside)} from a room on its own step"
    assert "vlmtrace" not in IMPORTS[name], f"{name} imports the package's front: import from the room"


def test_no_circle_of_modules():
    circle = circle_in(IMPORTS)
    assert not circle, f"modules import each other in a circle (under TYPE_CHECKING counts): {' -> '.join(circle)}"


def test_no_circle_of_methods():
    graph = {room: set() for room in METHODS}
    for name, others in IMPORTS.items():
        if name.startswith("methods."):
            graph[name.split(".")[1]] |= {other.split(".")[1] for other in others if other.startswith("methods.")}
    circle = circle_in({room: others - {room} for room, others in graph.items()})
    assert not circle, f"rooms of methods import each other in a circle: {' -> '.join(circle)}"


def test_nothing_imports_training_or_benchmarks():
    # But for the benchmark of circuits, which scores methods on what training has planted.
    for room, may in (("training", {"benchmarks"}), ("benchmarks", set())):
        users = {room_of(name) for name, others in IMPORTS.items() if room in map(room_of, others)} - {room} - may
        assert not users, f"{users} import from {room}"


def test_the_test_sees_what_it_must():
    known = dict.fromkeys(["core.a", "models.b", "models"])
    seen = imports_of(
        "models.b", "def f():\n    from vlmtrace.core import a\nif TYPE_CHECKING:\n    import vlmtrace.models", known
    )
    assert seen == {"core.a", "models"}
    assert circle_in({"a": {"b"}, "b": {"a"}})
