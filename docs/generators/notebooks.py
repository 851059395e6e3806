"""The notebooks as pages: taken from an executed run, or executed on a handful of pairs."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[2]

#: The task that notebooks of one task are shown for.
TASK = "rendered_states"

#: The run that missing notebooks are executed into, and how few pairs that takes.
OWN_RUN, SAMPLES = "docs", "24"

#: What stands in the place of a view that only a browser with a running kernel can show.
VIEW = """*An interactive view: run the notebook to use it. This is how one of its tabs looks, for another example:*

![The Patch view](../images/explorer-patch.png)"""

WIDGET = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"


def sources() -> list[Path]:
    """The committed notebooks, in order."""
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def parameters_of(notebook: Path) -> set[str]:
    """The names that a notebook's cell of parameters sets."""
    for cell in nbformat.read(notebook, as_version=4).cells:
        if "parameters" in cell.metadata.get("tags", []):
            return set(re.findall(r"^(\w+) =", cell.source, flags=re.MULTILINE))
    return set()


def needs_llava(notebook: Path) -> bool:
    """Whether a notebook is about decoder-only models."""
    cells = nbformat.read(notebook, as_version=4).cells
    return any(cell.source.startswith('model = "tiny-llava"') for cell in cells)


def executed(notebook: Path, folder: Path) -> Path | None:
    """The executed copy of a notebook in a run's folder, if there is one."""
    candidates = [folder / "notebooks" / name for name in (notebook.name, f"{TASK}-{notebook.name}")]
    return next((path for path in candidates if path.is_file()), None)


def execute(notebook: Path) -> Path:
    """Execute a notebook into the run of this documentation, unless that was done; return the executed copy."""
    run = f"{OWN_RUN}-llava" if needs_llava(notebook) else OWN_RUN
    before = executed(notebook, ROOT / "data" / "runs" / run)
    newest = max(path.stat().st_mtime for path in (notebook, *(ROOT / "vlmtrace").rglob("*.py")))
    if before is not None and before.stat().st_mtime > newest:
        return before
    known = parameters_of(notebook)
    command = [sys.executable, "-m", "vlmtrace", "run", str(notebook), "--run", run]
    if "task" in known:
        command += ["--task", TASK]
    if "tasks" in known:
        command += ["-p", f"tasks={TASK}"]
    if "samples" in known and notebook.name.startswith(("01", "07", "08")):
        command += ["-p", f"samples={SAMPLES}"]
    print(f"Executing {notebook.name}, which no run has: {' '.join(command[1:])}", flush=True)
    subprocess.run(command, cwd=ROOT, check=True)
    found = executed(notebook, ROOT / "data" / "runs" / run)
    if found is None:
        raise FileNotFoundError(f"{notebook.name} was executed, but the run {run!r} has no copy of it")
    return found


def find(run: str, llava_run: str, runs: Path) -> dict[str, Path]:
    """The executed copy of every notebook: of the runs, or made now."""
    # What was executed here was executed together, so one missing stage makes all of the pipeline's anew.
    found = {path.name: executed(path, runs / (llava_run if needs_llava(path) else run)) for path in sources()}
    pipeline = [path for path in sources() if path.name[:2] <= "06"]
    if any(found[path.name] is None for path in pipeline):
        found |= dict.fromkeys((path.name for path in pipeline), None)
    return {path.name: found[path.name] or execute(path) for path in sources()}


def write(folder: Path, run: str, llava_run: str, runs: Path) -> None:
    """Write the pages of all notebooks and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    titles = {}
    for name, path in find(run, llava_run, runs).items():
        notebook = page_of(nbformat.read(path, as_version=4))
        titles[name] = notebook.cells[0].source.splitlines()[0].removeprefix("# ")
        nbformat.write(notebook, folder / name)
    index = (ROOT / "docs" / "notebooks" / "index.md").read_text()
    entries = "\n".join(Path(name).stem for name in titles)
    (folder / "index.md").write_text(index.replace("<!-- notebooks -->", entries))


def page_of(notebook: Any) -> Any:
    """The notebook without what only a running kernel can show, and without the paths of where it ran."""
    page = copy.deepcopy(notebook)
    states = page.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    page.metadata.pop("papermill", None)
    for cell in page.cells:
        cell.metadata = {}
        if cell.cell_type == "markdown":
            # The page lies in notebooks/ beside methods/, the notebook in notebooks/ beside docs/.
            cell.source = cell.source.replace("](../docs/", "](../")
        if cell.cell_type == "code":
            cell.source = clean_text(cell.source)
            shown = [_shown(output, states) for output in cell.outputs]
            cell.outputs = [output for output in shown if output is not None]
    return page


def _shown(output: Any, states: dict[str, Any]) -> Any:
    data = output.get("data", {})
    if WIDGET in data:
        controls = list(_labels(data[WIDGET]["model_id"], states))
        if not controls:
            return nbformat.v4.new_output("display_data", data={"text/markdown": VIEW})
        text = f"*Interactive controls ({', '.join(controls)}): run the notebook to use them.*"
        return nbformat.v4.new_output("display_data", data={"text/markdown": text})
    if output.output_type == "stream":
        output.text = clean_text(output.text)
        return output if output.text.strip() else None
    for kind in ("text/plain", "text/html"):
        if isinstance(data.get(kind), str):
            data[kind] = clean_text(data[kind])
    return output


def _labels(model_id: str, states: dict[str, Any]) -> Iterator[str]:
    """The labels of a widget's controls, in order."""
    state = states.get(model_id, {}).get("state", {})
    if state.get("description"):
        yield state["description"]
    for child in state.get("children") or []:
        yield from _labels(child.removeprefix("IPY_MODEL_"), states)


#: What follows a folder of the machine that a notebook ran on.
WITHIN = (r"\S*?/(?=data/(?:raw|runs|models)\b)", r"\S*/(?=vlmtrace/\S+\.py)", r"\S*?/(?=notebooks/\d\d_)")


def clean_text(text: str) -> str:
    """Text without the folders of the machine that a notebook ran on."""
    text = re.sub(r"/\S*/ipykernel_\d+/\d+\.py:\d+: ", "", text)
    return re.sub(rf"(?<![\w.:/])/(?:{'|'.join(WITHIN)})", "", text)
