"""What `make` makes beside a run, and which run it compares it with: the one that BESIDE names, or a remembered one.

A comparison only reads the other run. The one exception is tiny-llava's, whose other run, of tiny-blip, is made where
it is missing, and kept up to date where it was made with the same settings; any other run is compared as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.made_here import MADE_HERE
from vlmtrace.pipeline.beside import lacking, patched_tasks, remembered
from vlmtrace.pipeline.model_files import model_digest
from vlmtrace.pipeline.records import plain
from vlmtrace.pipeline.runs import open_run

if TYPE_CHECKING:
    from vlmtrace.pipeline.schedule import Settings

#: As BESIDE: no comparison, and none is remembered. No run can have this name.
NONE = "-"


def check_beside(beside: str, mine: Settings, tasks: Sequence[str]) -> None:
    """Look at a run to compare with before anything is computed.

    Args:
        beside: its name
        mine: the run that is reported, which need not be there yet
        tasks: that the run has, or will have; none where that is not known

    Raises:
        VlmtraceError: it cannot be compared with
    """
    other = open_run(beside)
    record, patched = other.record(), patched_tasks(other)
    if beside == mine.run:
        why = "it is this very run"
    elif not record["stages"]:
        why = "it has no finished stage"
    elif _is_of(record, mine):
        why = "it is of the same model"
    elif missing := lacking(other):
        why = f"it lacks {missing}, which make all RUN={beside} computes"
    elif tasks and not set(tasks) & set(patched):
        why = f"it has patched {' '.join(patched) or 'no task'}, and not {' or '.join(tasks)}"
    else:
        return
    raise VlmtraceError(f"BESIDE={beside} cannot be compared with: {why}. Name a run of another model.")


def _is_of(record: Mapping[str, Any], mine: Settings) -> bool:
    """Whether a record is of the model that settings name: by its files, on the hub by name and revision."""
    digest = model_digest(mine.model)
    if digest == mine.model:
        wanted = f"{mine.model}@{mine.revision}" if mine.revision else mine.model
        return record["parameters"].get("model") == wanted
    return any(entry.get("model") == digest for entry in _made_from(record).values())


def _made_from(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {stage: entry for stage, entry in record.get("made_from", {}).items() if isinstance(entry, dict)}


def runs_of_all(mine: Settings, given: str) -> tuple[list[Settings], str | None]:
    """Find what `make all` has to make.

    Args:
        mine: the run that it was asked for
        given: BESIDE; "": the run that is remembered, of tiny-llava otherwise `default`; "-": none

    Returns:
        the settings of each run, that of the comparison first; and the name of the run that mine is compared with ("":
        none)

    Raises:
        VlmtraceError: the run that BESIDE names cannot be compared with
    """
    if given == NONE:
        return [mine], ""
    name = given or remembered(open_run(mine.run).record())
    if mine.model == "tiny-llava" and not name and mine.run != "default":
        name = "default"
    if mine.model == "tiny-llava" and name and name != mine.run:
        other = replace(mine, model="tiny-blip", run=open_run(name).name, revision="")
        if _may_be_made(other, bool(given)):
            return [other, mine], name
    if given:
        check_beside(given, mine, mine.tasks)
    return [mine], name


def runs_of_explore(mine: Settings, given: str) -> tuple[list[Settings], str | None]:
    """Find what `make explore` has to make.

    Args:
        mine: the run that it was asked for
        given: BESIDE; "": the run that is remembered; "-": none

    Returns:
        the settings of each run, mine first: with tiny-blip tiny-llava is explored, too, in a run of its own; and the
        name of the run that mine is compared with ("": none; None: the one that is remembered)

    Raises:
        VlmtraceError: the run that BESIDE names cannot be compared with, or tiny-llava's run is of another model
    """
    if given and given != NONE:
        check_beside(given, mine, patched_tasks(open_run(mine.run)))
    made = [mine]
    if mine.model == "tiny-blip":
        other = replace(mine, model="tiny-llava", run="tiny-llava" if mine.run == "default" else f"{mine.run}-llava")
        record = open_run(other.run).record()
        if not (_models(record) <= {other.model} if record["stages"] else _is_free(other)):
            raise VlmtraceError(
                f"Run {other.run}, in which tiny-llava would be explored beside run {mine.run}, is of another model: "
                "choose another RUN."
            )
        made.append(other)
    return made, "" if given == NONE else given or None


def _models(record: Mapping[str, Any]) -> set[str]:
    """Names of the models that a run was made with."""
    made_with = [given.get("model") for given in _parameters(record).values()]
    return {str(name) for name in (record["parameters"].get("model"), *made_with) if name}


def _parameters(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What make gave each stage; empty where that is not known."""
    given = {stage: entry.get("parameters") for stage, entry in _made_from(record).items()}
    return {stage: found if isinstance(found, dict) else {} for stage, found in given.items()}


def _is_free(other: Settings) -> bool:
    """Whether a run that is not there yet is not called as another model, whose run it would be."""
    is_model = other.run in MADE_HERE or (paths.MODELS / other.run / "config.json").is_file()
    return other.run == other.model or not is_model


def _may_be_made(other: Settings, is_given: bool) -> bool:
    """Whether making a run of tiny-blip replaces nothing that was made otherwise.

    Raises:
        VlmtraceError: there is no such run, and it was given and is called as another model
    """
    record = open_run(other.run).record()
    if not record["stages"]:
        if is_given and not _is_free(other):
            raise VlmtraceError(
                f"BESIDE={other.run} cannot be compared with: there is no such run yet. Make it (make all "
                f"MODEL={other.run}), or name another run."
            )
        return _is_free(other)
    if _models(record) != {other.model}:
        return False
    from vlmtrace.pipeline.schedule import jobs_of  # schedules need kernels

    given = _parameters(record)
    mine = {job.stage: plain(job.deciding_parameters()) for job in jobs_of("all", other, decoder_only=False)}
    return all(
        stage in given and all(given[stage].get(name, value) == value for name, value in mine[stage].items())
        for stage in mine.keys() & record["stages"].keys()
    )
