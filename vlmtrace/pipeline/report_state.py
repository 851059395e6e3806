"""Whether a run's report is what would be drawn now; `make` draws it again only where it is not."""

from __future__ import annotations

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline.beside import remembered
from vlmtrace.pipeline.checkpoints import digest_of, file_digest
from vlmtrace.pipeline.dependencies import PACKAGE, code_digest, modules_behind
from vlmtrace.pipeline.records import plain
from vlmtrace.pipeline.runs import Run, open_run


def make_report(run: Run, beside: str | None) -> bool:
    """Draw the report, if it is out of date; say whether it was.

    Args:
        run: the run
        beside: the name of a run of another model to compare with; "": none; None: the one that run.json remembers
    """
    name = remembered(run.record()) if beside is None else beside
    made_from = {
        "beside": name,
        "stages": digest_of(plain([run.record()["stages"], _stages_of(name)])),
        "pages": {path.name: file_digest(path) for path in sorted(run.folder.glob("notebooks/[!.]*.ipynb"))},
        "code": code_digest(modules_behind("pipeline.report")),
        "templates": [file_digest(path) for path in sorted((PACKAGE / "pipeline" / "templates").glob("*"))],
    }
    page = run.folder / "report" / "index.html"
    if page.is_file() and run.record().get("made_from", {}).get("report") == plain(made_from):
        return False
    from vlmtrace.pipeline.report import write_report  # here, since it imports torch, which takes seconds

    write_report(run, name)
    run.remember("report", made_from)
    return True


def _stages_of(name: str) -> object:
    """The stages of the run to compare with; what is wrong with its name or record is said in the report."""
    try:
        return open_run(name).record()["stages"] if name else {}
    except VlmtraceError as error:
        return str(error)
