"""SVO-Probes: sentences and photographs of which one shows the sentence and the other one word of it changed.

Every row gives two pairs, one in either direction. The images are those of a local folder, or come from their URLs
into data/raw/svo_probes: only those that are needed, and each once.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import content_of
from vlmtrace.core.paths import relative
from vlmtrace.tasks.building.csv_files import find_csv, read_csv
from vlmtrace.tasks.building.image_files import image_problem
from vlmtrace.tasks.building.named_files import NamedImages, NoFile, plain_number
from vlmtrace.tasks.building.row_audit import Filters, refused
from vlmtrace.tasks.building.sampling import IMAGE, Rejected, draw, pair_row
from vlmtrace.tasks.building.token_replacement import Replacer
from vlmtrace.tasks.declaration import Request
from vlmtrace.tasks.download.images import download_images
from vlmtrace.tasks.svo_probes.grammar import Prepositions, Triplet, participle, question, singular
from vlmtrace.tasks.svo_probes.rows import PUBLISHED_COLUMNS, SYNONYMS, Change, Unusable, change, unfair

TASK = "svo_probes"

#: Words that may replace options: the commonest of the data set in the same part of the triplet.
POOL = 150

#: Words that are true of too much to stand for something that an image does not show.
TOO_WIDE = frozenset(("person", "adult", "animal", "thing", "object", "group"))

#: So many images in a row of which no server answered mean that the connection is gone.
SILENT = 40


def make_pairs(request: Request) -> pd.DataFrame:
    """Pairs of photographs of which one shows a sentence and the other one word of it changed.

    Args:
        request: its root is the published CSV, or the folder that holds it

    Returns:
        up to n rows of a pairs table, with the columns subject, verb and object; the request's filters account for
        every row of the CSV, in both directions

    Raises:
        VlmtraceError: there is no such CSV, no row of it can be used, or no image can be had
    """
    filters = request.filters
    path = find_csv(request.root, PUBLISHED_COLUMNS, TASK)
    read = read_csv(path, PUBLISHED_COLUMNS)
    ids = {name: read.table[name].map(plain_number) for name in ("pos_image_id", "neg_image_id")}
    rows = read.table.assign(**ids, row=read.rows)
    clear: dict[str, Change] = {}
    reasons: list[str | None] = []
    for row, fault in zip(rows.to_dict("records"), read.faults, strict=True):
        try:
            if fault:
                raise Unusable(fault)
            clear[row["row"]] = change(row)
            reasons.append(None)
        except Unusable as error:
            reasons.append(str(error))
    rows = filters.keep("one part of the triplet changes", rows, reasons, "rows")
    prepositions = Prepositions((row["sentence"], clear[row["row"]].positive) for row in rows.to_dict("records"))
    changes = [clear[name] for name in rows["row"]]
    options = [option_words(found) for found in changes]
    fair = [unfair(found.slot, words) for found, words in zip(changes, options, strict=True)]
    rows = filters.keep("the options exclude each other", rows.assign(change=changes, options=options), fair, "rows")
    if rows.empty:
        raise VlmtraceError(f"No row of {path} can be used: {refused(filters)}.")
    rows = filters.keep("both images are named", rows, [_unnamed(row) for row in rows.to_dict("records")], "rows")
    pools = word_pools(rows, prepositions)
    finder = Images(path.parent)
    replacer = Replacer(request.model, SYNONYMS)
    of_images: dict[str, str] = {}  # by candidate that becomes a pair of images alone, why

    def build(candidate: dict[str, Any], correct_first: bool, generator: np.random.Generator) -> dict[str, Any]:
        found: Change = candidate["change"]
        images = tuple(finder.find(candidate, side) for side in sides(candidate))
        if content_of(images[0]) == content_of(images[1]):
            raise Rejected(IMAGE, "both images are the same picture")
        words = candidate["options"] if candidate["forward"] else candidate["options"][::-1]
        ordered = words if correct_first else words[::-1]
        # The sentence is about the positive triplet; the changed word is asked for, so either triplet gives the rest.
        leads = lead_words(found, prepositions)
        clean = question(found.slot, found.positive, ordered, leads)
        first, second = (pools[found.slot, leads[word] if found.slot == "verb" else ""] for word in ordered)
        try:
            corrupt = replacer(clean, ordered, [(first, second)], generator)
        except VlmtraceError as error:
            corrupt = clean  # image corruption needs no other prompt
            of_images[candidate["row"]] = str(error)
        roles = dict(zip(Triplet._fields, _in_prompt(found.positive), strict=True))
        return pair_row(
            TASK,
            candidate,
            category=found.slot,
            images=(relative(images[0]), relative(images[1])),
            prompts=(clean, corrupt),
            options=words,
            correct_first=correct_first,
            **{role: word if role != found.slot and word else None for role, word in roles.items()},
        )

    both = candidates(rows, filters)
    return draw(both, request.n, request.seed, build, filters, unit="pairs", fetch=finder.fetch, of_images=of_images)


def candidates(rows: pd.DataFrame, filters: Filters) -> pd.DataFrame:
    """Both directions of every row: the negative image may be the clean one, too.

    Args:
        rows: with the columns row, change and options
        filters: to which the step is added

    Returns:
        two rows per row, with forward (whether the positive image is clean), label (the correct option) and category
    """
    filters.add("in both directions", 2 * len(rows), {}, "pairs")
    both = []
    for forward, direction in ((True, "as published"), (False, "the other way round")):
        part = rows.assign(forward=forward, row=rows["row"] + f", {direction}")
        both.append(part.assign(label=[words[0 if forward else 1] for words in part["options"]]))
    table = pd.concat(both, ignore_index=True)
    return table.assign(category=[found.slot for found in table["change"]])


def sides(candidate: dict[str, Any]) -> tuple[str, str]:
    """Which image of a candidate is clean and which corrupt: "pos" and "neg", or the other way round.

    Args:
        candidate: with the column forward
    """
    return ("pos", "neg") if candidate["forward"] else ("neg", "pos")


def option_words(found: Change) -> tuple[str, str]:
    """The two words of the changed part as a question has them: nouns in the singular, verbs as participles.

    Args:
        found: both triplets, and the part in which they differ

    Returns:
        the positive and the negative word
    """
    return _form(found.slot, getattr(found.positive, found.slot)), _form(
        found.slot, getattr(found.negative, found.slot)
    )


def _form(slot: str, word: str) -> str:
    match slot:
        case "subject":
            return singular(word)
        case "verb":
            return participle(word)
    return word


def _in_prompt(triplet: Triplet) -> tuple[str, ...]:
    return tuple(_form(slot, word) if word else "" for slot, word in zip(Triplet._fields, triplet, strict=True))


def lead_words(found: Change, prepositions: Prepositions) -> dict[str, str]:
    """The prepositions that a question needs.

    Args:
        found: both triplets, and the part in which they differ
        prepositions: those of the data set

    Returns:
        by the positive triplet's verb; where verbs are the options, by either verb as a participle
    """
    positive, negative = found.positive, found.negative
    own = prepositions.of(positive.verb, positive.object)
    if found.slot != "verb":
        return {positive.verb: own}
    other = prepositions.of(negative.verb, negative.object, otherwise=own)
    return dict(zip(option_words(found), (own, other), strict=True))


def word_pools(rows: pd.DataFrame, prepositions: Prepositions) -> dict[tuple[str, str], list[str]]:
    """The words that may replace options: the commonest of the data set.

    Args:
        rows: with the column change
        prepositions: those of the data set

    Returns:
        by part of the triplet and, for verbs, their preposition ("" otherwise), so that it fits what replaces them
    """
    counts: dict[tuple[str, str], Counter[str]] = {}
    for found in rows["change"]:
        for triplet in (found.positive, found.negative):
            for slot, word, shown in zip(Triplet._fields, triplet, _in_prompt(triplet), strict=True):
                if word and shown not in TOO_WIDE:
                    lead = prepositions.of(word, triplet.object) if slot == "verb" else ""
                    counts.setdefault((slot, lead), Counter())[shown] += 1
    ranked = {key: sorted(words, key=lambda word: (-words[word], word))[:POOL] for key, words in counts.items()}
    return defaultdict(list, ranked)


def _unnamed(row: dict[str, Any]) -> str | None:
    for side in ("pos", "neg"):
        if not row[f"{side}_image_id"]:
            return f"{side}_image_id is empty"
    return None


# Images ------------------------------------------------------------------------------------------------------------


class Images:
    """The images of the data set by their ids: beside the CSV, or downloaded.

    Args:
        beside: the folder of the CSV; images in it, or in folders below, are used as they are
    """

    def __init__(self, beside: Path):
        self.folder = paths.RAW / TASK / "images"
        self.beside = NamedImages(beside)
        self.known: dict[str, Path] = {}
        self.reasons: dict[str, str] = {}
        self.silent = 0
        self.answered = False

    def fetch(self, rows: Sequence[dict[str, Any]]) -> None:
        """Download what is not there of the images of some rows.

        Args:
            rows: candidates that are needed next

        Raises:
            VlmtraceError: no server at all can be reached (any more)
        """
        wanted: dict[str, str] = {}
        for row in rows:
            for side in ("pos", "neg"):
                name = row[f"{side}_image_id"]
                self._look_beside(name)
                if row[f"{side}_url"] and name not in self.known and name not in self.reasons:
                    wanted[name] = row[f"{side}_url"]
        bad = [name for name in wanted if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name)]
        for name in bad:
            self.reasons[name] = f"the image id {name!r} cannot name a file"
            del wanted[name]
        if not wanted:
            return
        report = download_images(wanted, self.folder)
        for name, path, reason in report[["name", "path", "reason"]].itertuples(index=False, name=None):
            if isinstance(path, Path):
                self.known[name] = path
            else:
                self.reasons[name] = reason
        nobody = (report["status"] == "unreachable").all()
        self.silent = self.silent + len(report) if nobody else 0
        self.answered |= not nobody
        if nobody and self.silent >= (SILENT if self.answered else 3):
            raise VlmtraceError(
                f"None of {self.silent} images of {TASK} can be reached ({report['reason'].iloc[0]}): connect this "
                f"machine, or put images that you have, named by their id, into {relative(self.folder)} or beside the "
                "CSV."
            )

    def _look_beside(self, name: str) -> None:
        """Note the file of this id beside the CSV, or that there are several; none is no reason: there may be a URL."""
        if name in self.known or name in self.reasons:
            return
        try:
            self.known[name] = self.beside.find(name)
        except NoFile as reason:
            if reason.ambiguous:
                self.reasons[name] = str(reason)

    def find(self, row: dict[str, Any], side: str) -> Path:
        """The image of one side of a row.

        Args:
            row: a candidate
            side: "pos" or "neg"

        Raises:
            Rejected: it could not be had, or cannot be used
        """
        name = row[f"{side}_image_id"]
        path = self.known.get(name)
        if path is None:
            reason = self.reasons.get(name) or ("there is no file of it, and no URL" if not row[f"{side}_url"] else "?")
            raise Rejected(IMAGE, f"image {name}: {reason}")
        problem = image_problem(path)
        if problem:
            raise Rejected(IMAGE, f"image {name}: {problem}")
        return path
