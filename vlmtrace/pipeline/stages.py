"""The stages of a run: the notebooks, each of which says in its metadata what it reads and writes.

A notebook becomes a stage by an entry in its metadata:

    "vlmtrace": {"target": "all", "per": "task", "reads": ["selected"], "writes": ["head_patching"]}

What `make` runs, what it runs again, what comes next and the sections of the report follow from these entries.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

from vlmtrace.core.errors import VlmtraceError, one_of

#: Where the notebooks lie: beside the package.
NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"

#: A stage and the stages whose tables it reads must agree on these: parameter and its name in a sentence.
SHARED = {"seed": "seed", "model": "model", "fingerprint": "model weights", "loading": "a model in"}


@dataclass(frozen=True)
class StageSpec:
    """A notebook as a stage.

    Attributes:
        name: the notebook's name without its suffix; stages run in the order of their names
        notebook: the notebook's path
        target: what runs it: "all" (the pipeline) or "explore" (what needs no other stage)
        per: "task" where it runs once per task, "run" where it runs once over all tasks
        reads: the tables that it reads, which other stages write
        writes: the tables that it writes
        models: "all", or "decoder-only" where models of another kind cannot be asked
    """

    name: str
    notebook: Path
    target: str
    per: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    models: str = "all"


def stages(folder: Path | None = None) -> dict[str, StageSpec]:
    """All stages by name, in order; notebooks that declare nothing are no stages.

    Args:
        folder: where the notebooks lie; None: beside the package

    Raises:
        VlmtraceError: a notebook's declaration cannot be understood, or two stages write the same table
    """
    folder = folder or NOTEBOOKS
    found = {}
    for path in sorted(folder.glob("[!.]*.ipynb")):
        spec = _declared(path, path.stat().st_mtime_ns)
        if spec is not None:
            found[spec.name] = spec
    writers: dict[str, str] = {}
    for spec in found.values():
        for table in spec.writes:
            if writers.setdefault(table, spec.name) != spec.name:
                raise VlmtraceError(
                    f"Both {writers[table]} and {spec.name} declare that they write {table}: rename one."
                )
    return found


def writer_of(table: str, among: dict[str, StageSpec]) -> StageSpec:
    """The stage that writes a table.

    Raises:
        VlmtraceError: none does
    """
    tables = {name: spec for spec in among.values() for name in spec.writes}
    return tables[one_of(table, tables, "table")]


@functools.lru_cache(maxsize=256)
def _declared(path: Path, _changed: int) -> StageSpec | None:
    """What a notebook declares; read again when the file has changed."""
    try:
        declared = json.loads(path.read_text(encoding="utf-8"))["metadata"].get("vlmtrace")
        if declared is None:
            return None
        one_of(declared["target"], ("all", "explore"), "target")
        one_of(declared["per"], ("task", "run"), "per")
        return StageSpec(
            name=path.stem,
            notebook=path,
            target=declared["target"],
            per=declared["per"],
            reads=tuple(declared["reads"]),
            writes=tuple(declared["writes"]),
            models=declared.get("models", "all"),
        )
    except (KeyError, TypeError, AttributeError, ValueError, VlmtraceError) as error:
        raise VlmtraceError(
            f"The notebook {path} does not declare itself as a stage ({type(error).__name__}: {error}): see "
            "vlmtrace/pipeline/stages.py for the entry that its metadata needs."
        ) from error
