"""What a notebook's file says before it runs: its parameters, and whether it is a notebook at all."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.unreadable import refused

#: Notebooks above this size hold outputs that would be copied at every step of an execution.
MOST_BYTES = 2**26


def declared_parameters(notebook: Path) -> dict[str, Any]:
    """Names and defaults in the notebook's cell tagged `parameters`.

    Args:
        notebook: its path

    Returns:
        the default of each parameter, by its name

    Raises:
        VlmtraceError: the file is no notebook of Python, it has no such cell, or a default is not a literal
    """
    found = {}
    for statement in _parameters_cell(notebook).body:
        try:
            (target,) = statement.targets  # type: ignore[attr-defined]
            found[target.id] = ast.literal_eval(statement.value)  # type: ignore[attr-defined]
        except (AttributeError, ValueError, TypeError, RecursionError, MemoryError) as error:
            raise VlmtraceError(
                f"Line {statement.lineno} of the parameters of {notebook} is not 'name = literal': derived values "
                "belong into the next cell."
            ) from error
    return found


def read_notebook(notebook: Path) -> Any:
    """Read a notebook's file, in the present format whatever its own.

    Args:
        notebook: its path

    Raises:
        VlmtraceError: there is no such file, or it is not a notebook of Python
    """
    import nbformat

    try:
        if notebook.is_dir():
            raise VlmtraceError(f"{notebook} is a folder, not a notebook: name one of its files.")
        if not notebook.is_file():
            raise VlmtraceError(
                f"There is no notebook {notebook}: look into {paths.relative(paths.ROOT / 'notebooks')}."
            )
        size = notebook.stat().st_size
        if size > MOST_BYTES:
            raise VlmtraceError(
                f"{notebook} has {size // 2**20} MB, and a notebook may have {MOST_BYTES // 2**20}: clear its outputs."
            )
        content = nbformat.read(notebook, as_version=4)
        nbformat.validate(content)
    except OSError as error:
        shown = str(notebook)[:300]
        raise refused(f"The notebook {shown}", error) or VlmtraceError(
            f"The notebook {shown} cannot be read ({error.strerror}): correct its path."
        ) from error
    except VlmtraceError:
        raise
    except Exception as error:  # nbformat fails in many ways on what is none
        raise VlmtraceError(f"{notebook} is not a Jupyter notebook: give a file that Jupyter has written.") from error
    for name, key in (("language_info", "name"), ("kernelspec", "language")):
        language = content.metadata.get(name, {}).get(key, "python")
        if str(language).lower() not in ("python", "python3", "ipython"):
            raise VlmtraceError(f"{notebook} is a notebook of {str(language)[:40]!r}: give one of Python.")
    return content


def _parameters_cell(notebook: Path) -> ast.Module:
    for cell in read_notebook(notebook).cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code" and isinstance(tags, list) and "parameters" in tags:
            break
    else:
        raise VlmtraceError(f"{notebook} has no cell tagged 'parameters': tag the one that holds them.")
    try:
        return ast.parse(cell.source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        where = f", line {line}" if line else ""
        raise VlmtraceError(
            f"The parameters of {notebook} are not Python ({error}{where}): correct the cell."
        ) from error
