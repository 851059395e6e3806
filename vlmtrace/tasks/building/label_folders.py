"""Pairs from images in folders that say what is in them: the corrupt image is one from a folder with another label.

Here the labels are words that can be options of one question; where a noun belongs to the question, labels compete
only with labels of the same noun.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.paths import relative
from vlmtrace.tasks.building.image_files import image_problem, same_picture
from vlmtrace.tasks.building.row_audit import refused
from vlmtrace.tasks.building.sampling import IMAGE, Rejected, digest, draw, pair_row
from vlmtrace.tasks.building.token_replacement import Pool, Replacer
from vlmtrace.tasks.declaration import Request

#: Prompt of a candidate with its two options in their order.
Prompt = Callable[[dict[str, Any], Sequence[str]], str]
#: The words that may replace the options, the best pool first: candidate, options in their order.
Pools = Callable[[dict[str, Any], Sequence[str]], Sequence[Pool]]

NAMED, PARTNER = "folder is named as it should be", "another label to compare with"


def labelled_pairs(
    request: Request,
    images: pd.DataFrame,
    *,
    replacer: Replacer,
    prompt: Prompt,
    pools: Pools,
    further: Callable[[dict[str, Any], Sequence[str], str], dict[str, Any]] = lambda *_: {},
    unit: str = "images",
) -> pd.DataFrame:
    """Pairs of images that differ in their label.

    Every image is the clean one of at most one pair, and the corrupt one of at most one. Where it is both, the two
    pairs mirror each other: otherwise pairs would hang together in long chains of shared images, and could not be split
    into independent halves.

    Args:
        request: how many pairs, from which seed
        images: one row per image that may be the clean one: row (its name), path, category, label, and kind and group,
            within which labels compete (group may be empty)
        replacer: corrupts prompts, and knows which labels mean the same
        prompt: the clean prompt for a candidate and its two options in their order
        pools: the words that may replace the options, the best pool first
        further: further columns of the pairs table for a candidate, its options in their order and the corrupt prompt
        unit: what a row of `images` is, for the table of filters

    Returns:
        up to n rows of a pairs table; the request's filters account for every row of `images`

    Raises:
        VlmtraceError: no two labels compete, or no pair can be made of them
    """
    task, filters, seed = request.task, request.filters, request.seed
    labels = {cell: sorted(part["label"].unique()) for cell, part in images.groupby(["kind", "group"])}
    partners: dict[tuple[str, str, str], list[str]] = {}
    for (category, group), found in labels.items():
        for label in found:
            rivals = [other for other in found if other != label and other not in replacer.synonyms.get(label, ())]
            partners[category, group, label] = rivals
    unpaired = [
        None if partners[cell] else f"no other {cell[0]} of {cell[1] or 'them'} that means something else"
        for cell in images[["kind", "group", "label"]].itertuples(index=False, name=None)
    ]
    candidates = filters.keep(PARTNER, images, unpaired, unit)
    if candidates.empty:
        said = refused(filters) or "there is no image"
        raise VlmtraceError(
            f"{task} has no two labels to compare ({said}): a pair needs two images that differ in theirs."
        )
    order = candidates.assign(key=candidates["row"].map(lambda row: digest(seed, "corrupt", row))).sort_values("key")
    mirrored: dict[Path, Path] = {}  # clean -> corrupt image, and the other way round
    of_images: dict[str, str] = {}  # by image of a pair of images alone, why
    stock = {cell: deque(part["path"]) for cell, part in order.groupby(["kind", "group", "label"], sort=False)}

    def build(candidate: dict[str, Any], correct_first: bool, generator: np.random.Generator) -> dict[str, Any]:
        problem = image_problem(candidate["path"])
        if problem:
            raise Rejected(IMAGE, problem)
        cell = candidate["kind"], candidate["group"]
        rivals = [str(rival) for rival in generator.permutation(partners[*cell, candidate["label"]])]
        reasons = []
        without: list[tuple[str, str]] = []  # rivals that no words can replace together with the label, and why
        tried = [(rival, "") for rival in rivals]
        for rival, problem in itertools.chain(tried, without):  # the second ones, once the first ones are used up
            options = (candidate["label"], rival)
            ordered = options if correct_first else options[::-1]
            corrupt = clean = prompt(candidate, ordered)
            if not problem:
                try:
                    corrupt = replacer(clean, ordered, pools(candidate, ordered), generator)
                except VlmtraceError as error:
                    without.append((rival, str(error)))
                    continue
            image = _take(stock[*cell, rival], candidate["path"], mirrored)
            if image is None:
                reasons.append(Rejected(IMAGE, f"no usable image is left that shows the other option, {rival!r}"))
                continue
            if problem:  # image corruption needs no other prompt
                of_images[candidate["row"]] = problem
            mirrored.update({candidate["path"]: image, image: candidate["path"]})
            return pair_row(
                task,
                candidate,
                category=candidate["category"],
                images=(relative(candidate["path"]), relative(image)),
                prompts=(clean, corrupt),
                options=options,
                correct_first=correct_first,
                **further(candidate, ordered, corrupt),
            )
        raise reasons[0]

    return draw(candidates, request.n, seed, build, filters, unit=unit, of_images=of_images)


def _take(stock: deque[Path], clean: Path, mirrored: Mapping[Path, Path]) -> Path | None:
    """The next image in stock that can be read and is no copy of the clean one.

    An image that stands in a pair goes only with its partner in that pair.
    """
    for _ in range(len(stock)):
        path = stock.popleft()
        if mirrored.get(path, clean) != clean or mirrored.get(clean, path) != path:
            stock.append(path)
        elif image_problem(path) is None:
            if not same_picture(path, clean):
                return path
            stock.append(path)  # may serve another pair
    return None
