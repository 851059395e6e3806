"""An example of one's own, made from the one that is shown: another image, another question, one of them removed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from PIL import Image

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import changed_place
from vlmtrace.display.example import Example
from vlmtrace.display.session import OWN, Session
from vlmtrace.inputs.pair_runs import encode_pair
from vlmtrace.inputs.pictures import images_of

#: A longer question is not asked.
LONGEST_QUESTION = 2000

#: Columns that a pair shares between its two runs where nothing is corrupted.
_OF_CORRUPT = {"image": ("corrupt_image", "corrupt_images"), "prompt": ("corrupt_prompt",)}


def is_own(session: Session, example: Example) -> bool:
    """Whether an example is one of one's own."""
    return session.owns.get(example.name) is example


def fingerprint(example: Example) -> str:
    """A few letters by which a pair of one's own is known again, whatever it is called: of its images and questions.

    Args:
        example: any
    """

    def compute() -> str:
        pair, found = example.frame().iloc[0], hashlib.sha256()
        for picture in (example.image, example.other_image):
            found.update(repr(picture.size).encode() + picture.convert("RGB").tobytes())
        found.update(repr([str(pair["clean_prompt"]), str(pair["corrupt_prompt"])]).encode())
        return found.hexdigest()[:12]

    return example.keep("fingerprint", compute)


def with_image(session: Session, picture: Image.Image, side: str) -> Example:
    """Show a picture in place of the clean or the corrupt image.

    As the clean image it drops the corrupt side of a pair of the table, which belongs to another picture; what a
    person has put there stays.

    Args:
        session: whose example is changed
        picture: what was opened
        side: "clean" or "corrupt"
    """
    pair, own = _parts(session)
    if side == "corrupt":
        pair = {name: value for name, value in pair.items() if not name.endswith("answer")}
        return _ask(session, pair | with_other_image(pair, picture))
    kept: dict[str, Any] = {"clean_prompt": pair["clean_prompt"], "clean_image": picture}
    for name in ("corrupt_prompt", "corrupt_image"):
        if own and name in pair:
            kept[name] = pair[name]
    return _ask(session, kept)


def with_other_image(pair: Mapping[str, Any], picture: Image.Image) -> dict[str, Any]:
    """The columns by which a picture takes the place of one clean image in the corrupt run.

    Args:
        pair: a row of a pairs table; of several images the one is replaced that the pair's runs differ in
        picture: what was opened

    >>> picture = Image.new("RGB", (2, 2))
    >>> columns = with_other_image({"clean_image": "a.png", "clean_images": ["a.png", "a.png"]}, picture)
    >>> [image is picture for image in columns["corrupt_images"]]
    [True, False]
    """
    images = images_of(pair)
    if len(images) == 1:
        return {"corrupt_image": picture}
    changed = changed_place(pair)
    return {
        "corrupt_image": picture,
        "corrupt_images": [picture if i == changed else image for i, image in enumerate(images)],
    }


def with_question(session: Session, question: str, side: str) -> Example:
    """Ask another question, clean or corrupt.

    The answers of a pair belong to its question; so does its corrupt question, unless a person has typed it.

    Args:
        session: whose example is changed
        question: what was typed
        side: "clean" or "corrupt"
    Raises:
        VlmtraceError: the question is empty or too long
    """
    question = question.strip()
    if len(question) > LONGEST_QUESTION:
        raise VlmtraceError(
            f"The question has {len(question):,} characters, more than {LONGEST_QUESTION:,}: shorten it."
        )
    if not question:
        raise VlmtraceError(f"The {side} question is empty: type one, or remove it with ×.")
    pair, own = _parts(session)
    if side == "corrupt":
        return _ask(session, pair | {"corrupt_prompt": question})
    dropped = ("correct_answer", "incorrect_answer", *(() if own else ("corrupt_prompt",)))
    return _ask(session, {**_without(pair, dropped), "clean_prompt": question})


def without(session: Session, part: str, side: str) -> Example:
    """Remove one image or question; where the clean one is removed, the corrupt one takes its place.

    Args:
        session: whose example is changed
        part: "image" or "prompt"
        side: "clean" or "corrupt"
    Raises:
        VlmtraceError: there is no other one that could take its place
    """
    pair, _ = _parts(session)
    name = f"corrupt_{part}"
    if pair.get(name) is None:
        raise VlmtraceError("It is the only one: open or type another one, which takes its place.")
    left = _without(pair, _OF_CORRUPT[part])
    if side == "clean":
        left = _without(left, ("correct_answer", "incorrect_answer"))
        left |= {f"clean_{part}": pair[name]}
        if part == "image" and "corrupt_images" in pair:
            left["clean_images"] = pair["corrupt_images"]
    return _ask(session, left)


def why_not_patched(example: Example) -> dict[str, str]:
    """Why a corrupt image or question cannot be patched with the clean one: a sentence by corruption.

    Args:
        example: as it is shown
    """

    def compute() -> dict[str, str]:
        found = {}
        for corruption in example.corruptions:
            try:
                encode_pair(example.model, example.frame(), 0, corruption)
            except VlmtraceError as error:
                # The rail shows this pair alone, so that its name need not be said.
                found[corruption] = _unlike(example) if corruption == "text" else ""
                found[corruption] = found[corruption] or str(error).removeprefix(f"Pair {example.name!r}: ")
        return found

    return example.keep("why not patched", compute)


def _unlike(example: Example) -> str:
    """The sentence for two questions of unlike length; "": they are of one length."""
    model, pair = example.model, example.pair
    clean, corrupt = (model.count_tokens(str(pair[name])) for name in ("clean_prompt", "corrupt_prompt"))
    if clean == corrupt or model.draws_prompts:
        return ""
    return (
        f"The clean question has {clean} tokens and the corrupt one {corrupt}: patching takes each position from the "
        "other run, so that both must have as many. Change one of them, or remove it:"
    )


def _parts(session: Session) -> tuple[dict[str, Any], bool]:
    """The example's columns without masks, which belong to the image of a table, and whether it is one's own."""
    example = session.example
    pair = {name: value for name, value in example.pair.items() if not name.endswith(("_mask", "_masks"))}
    return pair, is_own(session, example)


def _ask(session: Session, pair: Mapping[str, Any]) -> Example:
    """Show it under the name of the example of one's own that it was made from, or under a new one."""
    name = session.example.name
    if not is_own(session, session.example):
        taken = {*session.owns, *session.pairs["sample_id"]}
        name = next(one for one in (OWN, *(f"{OWN} {n}" for n in range(2, 10**6))) if one not in taken)
    return session.ask(**{**pair, "sample_id": name})


def _without(pair: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in pair.items() if name not in names}
