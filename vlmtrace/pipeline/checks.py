"""What a run is made of, checked before anything starts: each mistake is one sentence."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.models.adapter_files import ADAPTER_CONFIG
from vlmtrace.models.made_here import check_made

#: What random generators take, and more pairs than anybody evaluates.
MOST_SEED, MOST_SAMPLES = 2**32 - 1, 10**7

#: Parameters that are prompts or parts of them, in which lines may break.
PROSE = ("instruction", "answer_prefix", "question", "prefix")

#: How a model is loaded, beside its name and device; empty in each: as `load_model` does by itself.
LOADING = ("dtype", "device_map", "quantization", "attn_implementation", "max_pixels", "image_size")

#: The most pixels that an image may be given; larger ones are not read at all.
MOST_PIXELS = 120_000_000

_REVISION = r"[\w][\w./-]{0,199}"
_HUB_ID = rf"[A-Za-z0-9_][\w.-]{{0,95}}/[A-Za-z0-9_][\w.-]{{0,95}}(@{_REVISION})?"


def split_names(text: str) -> list[str]:
    """Names that stand behind each other, with blanks or commas between them.

    >>> split_names("rendered_svo, csv  folder")
    ['rendered_svo', 'csv', 'folder']
    """
    return text.replace(",", " ").split()


def check_text(name: str, text: str) -> None:
    """Raise a sentence if a text holds a character that is none: a control character, or half of one.

    Args:
        name: of the parameter, for the sentence
        text: its value
    """
    breaks = "\n\t" if name.lower() in PROSE else ""
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in breaks:
            raise VlmtraceError(f"{name} holds the character {character!r}, which no text has: remove it.")


def check_model(name: str, revision: str = "") -> None:
    """Raise a sentence if no such model can exist: neither bundled, nor a directory, nor like a hub id.

    Args:
        name: a bundled model, a directory, or a hub id
        revision: of a model on the hub; empty: none is given
    """
    check_text("MODEL", name)
    check_made(name)
    bundled = sorted(path.parent.name for path in paths.MODELS.glob("*/config.json"))
    is_local = name in bundled or (name != "" and _holds_a_model(name))
    if is_local and revision:
        raise VlmtraceError(f"REVISION={revision} is for models on the hub: {name} is on this machine, as it is.")
    if revision and (not re.fullmatch(_REVISION, revision) or ".." in revision):
        raise VlmtraceError(f"REVISION={revision[:80]!r} is not the name of a branch, tag or commit: correct it.")
    if revision and "@" in name:
        raise VlmtraceError(f"MODEL={name[:200]} names a revision already: leave REVISION empty.")
    if is_local or (re.fullmatch(_HUB_ID, name) and ".." not in name):
        return
    there = ", ".join(bundled) or "none is there: run make model"
    raise VlmtraceError(
        f"Unknown model {name[:200]!r}: choose a bundled one ({there}), "
        "a directory written by save_pretrained, or a hub id such as Salesforce/blip-vqa-base."
    )


def _holds_a_model(name: str) -> bool:
    try:
        return any((paths.from_home(name) / holds).exists() for holds in ("config.json", ADAPTER_CONFIG, "snapshots"))
    except (OSError, ValueError, RuntimeError):  # longer than paths are, links in a circle, the home of nobody
        return False


def check_tasks(names: list[str]) -> None:
    """Raise a sentence if there is no task, one that is unknown, or one named twice."""
    from vlmtrace.tasks import TASKS

    if not names:
        raise VlmtraceError(f"TASKS is empty: choose from {', '.join(TASKS)}.")
    for name in names:
        one_of(name[:80], TASKS, "task")
    if len(set(names)) < len(names):
        raise VlmtraceError(f"TASKS names a task twice: {' '.join(names)}.")


def check_data(tasks: list[str], root: str, question: str) -> None:
    """Raise a sentence if a task's data are not there, or ROOT or QUESTION is given for nothing."""
    from vlmtrace.tasks import ROOTED, declared, find_root

    rooted = [name for name in tasks if name in ROOTED]
    if root and not rooted:
        raise VlmtraceError(f"ROOT={root[:200]} is for {', '.join(ROOTED)}: {' '.join(tasks)} needs none.")
    takers = [task.name for task in declared().values() if task.takes_question]
    if question and not set(takers) & set(tasks):
        raise VlmtraceError(
            f"QUESTION={question[:200]} is for the task {' or '.join(takers)}, which TASKS={' '.join(tasks)} lacks."
        )
    check_question(question)
    for name in rooted:
        try:
            found = find_root(name, root)
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, VlmtraceError):
                raise
            raise VlmtraceError(f"There is nothing at {root[:200]}: correct ROOT.") from error
        if found.is_file() and name != "csv":
            raise VlmtraceError(f"ROOT={root} is a file, and the task {name} reads a folder: name the folder.")


def check_question(question: str) -> None:
    """Raise a sentence if a question lacks the places of its options; an empty one is the data set's own."""
    check_text("QUESTION", question)
    if question and sorted(re.findall(r"\{(.*?)\}", question)) != ["a", "b"]:
        raise VlmtraceError(
            f"The question {question[:200]!r} must hold {{a}} and {{b}} once each: e.g. 'Is this {{a}} or {{b}}?'."
        )


def check_device(name: str) -> None:
    """Raise a sentence if this machine has no such torch device; of "cpu" no library is asked."""
    if name == "cpu":
        return
    if not re.fullmatch(r"[a-z]{2,20}(:[0-9]{1,3})?", name) or name == "meta":
        raise VlmtraceError(f"DEVICE={name[:40]!r} is not a device: choose cpu, or cuda / mps where present.")
    import torch  # here, as it takes seconds

    kind, _, number = name.partition(":")
    if kind == "cuda":  # asked without touching it, as this process would hold memory of the GPU for nothing
        there = torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count()
    elif kind == "mps":
        there = torch.backends.mps.is_available() and int(number or 0) == 0
    else:
        from vlmtrace.models.placement import find_device

        there = bool(find_device(name))
    if not there:
        raise VlmtraceError(f"The device {name!r} cannot be used here: choose cpu, or cuda / mps where present.")


def check_loading(given: Mapping[str, str | int | None], device: str = "cpu") -> None:
    """Raise a sentence if no model can be loaded as it is told.

    Args:
        given: by the names of `LOADING`; empty or None: not told
        device: a torch device
    """
    told = {name: value for name, value in given.items() if value}
    if isinstance(told.get("max_pixels"), str):
        told["max_pixels"] = check_number("MAX_PIXELS", str(told["max_pixels"]), 1, MOST_PIXELS)
    if not told or told == {"dtype": "float32"}:
        return
    for name, value in told.items():
        if isinstance(value, str):
            check_text(name, value)
    from vlmtrace.models.load_options import LoadOptions  # here, as it takes seconds

    LoadOptions.of(**told)  # type: ignore[arg-type]
    if told.get("device_map") and device != "cpu":
        raise VlmtraceError(f"DEVICE={device} and DEVICE_MAP are both given: leave DEVICE out.")


def check_positions(positions: str) -> None:
    """Raise a sentence if a text is no choice of the positions at which the notebooks patch."""
    check_text("POSITIONS", positions)
    from vlmtrace.methods.patching.extent import EXTENTS  # here, as it takes seconds

    one_of(positions, EXTENTS, "choice of positions")


def check_number(name: str, text: str, least: int, most: int = 10**18) -> int:
    """The whole number that a text means.

    Args:
        name: of the parameter, for the sentence
        text: its value
        least: no number is smaller
        most: no number is larger

    Raises:
        VlmtraceError: it means none, or one out of these bounds
    """
    if not re.fullmatch(r"[0-9]+", text):
        raise VlmtraceError(f"{name}={text[:40]} is not a whole number of at least {least}: correct it.")
    # Python refuses to read thousands of digits; zeros in front do not count.
    digits = text.lstrip("0") or "0"
    return check_range(name, int(digits) if len(digits) <= 30 else 10**30, least, most, text[:40])


def check_range(name: str, number: int, least: int, most: int, shown: str = "") -> int:
    """Return a whole number if it lies within bounds, and raise a sentence otherwise."""
    shown = shown or str(number)[:40]
    if number < least:
        raise VlmtraceError(f"{name}={shown} is not a whole number of at least {least}: correct it.")
    if number > most:
        raise VlmtraceError(f"{name}={shown} is too large: the most is {most}.")
    return number
