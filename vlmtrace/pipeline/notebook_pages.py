"""The executed notebooks of a run as HTML pages that need no Jupyter, linked to one another."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import write_atomically
from vlmtrace.core.unreadable import refused
from vlmtrace.pipeline.checkpoints import digest_of, file_digest
from vlmtrace.pipeline.notebooks import WIDGET
from vlmtrace.pipeline.runs import Run

#: A link of a notebook to a file beside or above it: its text and its target. Links to the web and to headings stay.
LOCAL_LINK = re.compile(r"(?<!!)\[([^\[\]]*)\]\((?!\w+:|#)([^)\s]+)\)")

#: What typesets the formulas of a page. Nothing else is asked of another machine.
MATHJAX = "https://cdnjs.cloudflare.com/ajax/libs/mathjax/2.7.7/"

#: What a browser may run in a page: MathJax, which evaluates its configuration there. Whatever else the notebook's text
#: or its outputs contain is shown, and never run.
POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="'
    f"default-src 'none'; script-src 'unsafe-eval' {MATHJAX}; style-src 'unsafe-inline'; font-src data: {MATHJAX}; "
    f"img-src data: {MATHJAX}; base-uri 'none'; form-action 'none'\">"
)

#: The scripts of nbconvert that a page of text, tables and pictures does not need: require.js and mermaid.
UNNEEDED = re.compile(r"""<script src="[^"]*require[^"]*"></script>|<script type="module">.*?</script>""", re.DOTALL)

#: Forms of a cell's output that are text or pixels.
PLAIN = ("text/plain", "image/png", "image/jpeg")

#: What of a cell's output is left out of a page, because it can do more than be shown.
ACTIVE = re.compile(r"<\s*(script|iframe|object|embed|base|meta|link)\b", re.IGNORECASE)


def notebook_pages(run: Run, folder: Path) -> Iterable[dict[str, str]]:
    """Render the executed notebooks as pages that need no Jupyter.

    A page is rendered again only if its notebook has another content, or links lead elsewhere, than the page says.

    Args:
        run: whose executed notebooks are rendered
        folder: of the report; the pages are written to `notebooks/` in it

    Yields:
        for each notebook: task ("" for one of all tasks), name (the stage), page and notebook (paths relative to the
        folder)
    """
    executed = executed_notebooks(run)
    for stem, notebook in executed.items():
        page = render_page(notebook, folder, executed)
        yield {
            "task": stem.rpartition("-")[0],
            "name": stem.rpartition("-")[2],
            "page": f"notebooks/{page.name}",
            "notebook": f"../notebooks/{notebook.name}",
        }


def executed_notebooks(run: Run) -> dict[str, Path]:
    """By its name without ending, each executed notebook of a run.

    Args:
        run: whose folder is searched
    """
    return {path.stem: path for path in sorted((run.folder / "notebooks").glob("[!.]*.ipynb"))}


def render_page(notebook: Path, folder: Path, executed: Mapping[str, Path]) -> Path:
    """Render an executed notebook, unless its page is what would come out.

    Args:
        notebook: the executed notebook
        folder: of the report
        executed: by their names without ending, the notebooks that it may link to

    Returns:
        the page

    Raises:
        VlmtraceError: the file is no executed notebook
    """
    page = folder / "notebooks" / f"{notebook.stem}.html"
    task = notebook.stem.rpartition("-")[0]
    linked = linked_notebooks(notebook.read_text(encoding="utf-8", errors="replace"), task, executed)
    links = {link: f"{path.stem}.html" for link, path in linked.items()}
    made_from = f"<!-- made from {file_digest(notebook)} {digest_of(links, file_digest(Path(__file__)))} -->\n"
    if not page.is_file() or not _ends_with(page, made_from):
        with write_atomically(page) as temporary:
            temporary.write_text(notebook_as_html(notebook, links) + made_from, encoding="utf-8")
    return page


@contextlib.contextmanager
def pages_beside(expected: Mapping[Path, Run]) -> Iterator[Callable[[Path], None]]:
    """Render notebooks as they are finished, beside those that still run; the report then finds their pages.

    Args:
        expected: all notebooks that are to be executed, each with its run: a page links to those that are still to come

    Yields:
        what takes the path of a notebook that has been executed
    """
    pool = ThreadPoolExecutor(1)

    def render(notebook: Path) -> None:
        run = expected[notebook]
        known = executed_notebooks(run) | {
            path.stem: path for path, its_run in expected.items() if its_run.folder == run.folder
        }
        # Whatever is wrong here, the report meets again, and says.
        with contextlib.suppress(Exception):
            render_page(notebook, run.folder / "report", dict(sorted(known.items())))

    def finished(notebook: Path) -> None:
        pool.submit(render, notebook)

    try:
        yield finished
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _ends_with(page: Path, end: str) -> bool:
    expected = end.encode()
    with open(page, "rb") as file:
        file.seek(max(0, page.stat().st_size - len(expected)))
        return file.read() == expected


def linked_notebooks(text: str, task: str, executed: Mapping[str, Path]) -> dict[str, Path]:
    """Find the executed notebooks that a notebook links to.

    Args:
        text: the notebook's file
        task: of the notebook, "" for one of all tasks
        executed: the executed notebooks of the run, by their names without ending

    Returns:
        by link (such as "02_evaluate.ipynb"): the executed notebook of the same task, or of all tasks, or of the first
        task that has it; links to notebooks that were not executed are left out
    """
    found = {}
    for link in dict.fromkeys(target for _, target in LOCAL_LINK.findall(text) if target.endswith(".ipynb")):
        name = link.removesuffix(".ipynb")
        of_other_tasks = [stem for stem in executed if stem.endswith(f"-{name}")]
        stem = next((stem for stem in (f"{task}-{name}", name, *of_other_tasks) if stem in executed), None)
        if stem is not None:
            found[link] = executed[stem]
    return found


def notebook_as_html(notebook: Path, links: Mapping[str, str]) -> str:
    """Render an executed notebook as a static page.

    Controls are left out, because they do not work without a kernel; their figures stay.

    Args:
        notebook: the executed notebook
        links: pages by the local links that lead to them; the text of every other local link stays without the link,
            because its target does not lie beside the page
    """
    import nbformat

    def relink(match: re.Match[str]) -> str:
        text, target = match.groups()
        return f"[{text}]({links[target]})" if target in links else text

    try:
        content = nbformat.read(notebook, as_version=4)
        nbformat.validate(content)
    except Exception as error:  # nbformat fails in many ways on what is no notebook
        raise refused(notebook, error) or VlmtraceError(
            f"{notebook} is not an executed notebook: delete it, and run its stage again."
        ) from error
    content.metadata.pop("widgets", None)
    content.metadata["title"] = notebook.stem
    for cell in content.cells:
        if cell.cell_type == "markdown":
            cell.source = LOCAL_LINK.sub(relink, cell.source)
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if WIDGET not in out.get("data", {})]
            for output in cell.outputs:
                leave_out_active(output)
    page = _exported(content)
    return page.replace('<meta charset="utf-8"/>', f'<meta charset="utf-8"/>\n{POLICY}', 1)


def leave_out_active(output: dict[str, Any]) -> None:
    """Drop those forms of a cell's output that could do something; its text stays.

    Args:
        output: of a code cell; changed in place
    """
    data = output.get("data", {})
    for kind, content in [*data.items()]:
        is_active = kind not in PLAIN and isinstance(content, str) and ACTIVE.search(content)
        if is_active or re.search(r"javascript|mermaid|markdown|latex", kind):
            del data[kind]


def _exported(content: Any) -> str:
    return UNNEEDED.sub("", _exporter().from_notebook_node(content)[0])


@functools.lru_cache(maxsize=1)
def _exporter() -> Any:
    """One for all pages: its templates are compiled once."""
    from nbconvert import HTMLExporter

    return HTMLExporter(
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        mathjax_url=f"{MATHJAX}MathJax.js?config=TeX-AMS_CHTML-full,Safe",
    )
