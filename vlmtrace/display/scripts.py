"""The browser's scripts: modules that import from each other by relative paths, put together in one for each widget.

anywidget hands the page one text, from which no other file can be imported. So a module and all that it imports are put
one behind the other, those that are imported first. No tool builds anything: what the page runs are the modules' lines.
For that, a module keeps to three rules: it imports names as they are (`import { a, b } from "./c.js"`), it exports
where it declares (`export function a`), and no two modules of one script declare the same name.
"""

from __future__ import annotations

import re
from pathlib import Path

STATIC = Path(__file__).parent / "static"

#: A statement that imports names from another module.
IMPORT = re.compile(r'^import \{[^}]*\} from "([^"]+)";\n', re.MULTILINE)

#: Before what a module declares; `export default`, which the page asks for, is something else.
EXPORT = re.compile(r"^export (?=async|function|class|const|let)", re.MULTILINE)


def modules(path: Path) -> list[Path]:
    """A module and all that it needs, each once, what is imported before what imports it.

    Args:
        path: of the module
    Raises:
        ValueError: modules import each other in a circle
    """
    found: list[Path] = []

    def visit(module: Path, importers: tuple[Path, ...]) -> None:
        if module in importers:
            raise ValueError(f"{module} imports itself: by way of {', '.join(part.name for part in importers)}.")
        if module not in found:
            for name in IMPORT.findall(module.read_text()):
                visit((module.parent / name).resolve(), (*importers, module))
            found.append(module)

    visit(path.resolve(), ())
    return found


def script(path: Path) -> str:
    """A widget's JavaScript: its module, behind all that it imports.

    Args:
        path: of the widget's own module
    """
    return "\n".join(EXPORT.sub("", IMPORT.sub("", module.read_text())) for module in modules(path))
