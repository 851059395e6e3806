"""Verb pairs whose clean image has only some parts of the pose: which of them does a model read the verb off?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count, islice

import pandas as pd

from vlmtrace.core.arguments import Count, Seed, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.paths import RAW, relative
from vlmtrace.tasks.rendered.pairs import SPLITS, VERSION, Pair, sample, write_images
from vlmtrace.tasks.rendered.svo import POSE_PARTS, SvoScene
from vlmtrace.tasks.rendered.words import VERBS

TASK = "rendered_svo"


@checked
def mixed_poses(
    n: Count,
    parts: Sequence[str] = tuple(POSE_PARTS),
    seed: Seed = 0,
    split: str = "test",
    verbs: Sequence[str] = (),
) -> pd.DataFrame:
    """Render verb pairs of rendered_svo whose clean image takes only some parts of the pose from the correct verb.

    All else of the clean image is drawn as in the corrupt one, so that both differ in these parts alone. With all parts
    the images are those of `load_pairs("rendered_svo")`, with none the clean image is the corrupt one.

    Args:
        n: number of pairs: the first n of the task that ask for a verb
        parts: which parts are those of the correct verb: "legs"; "arms" (with the lean of the upper body); "object"
            (where it is, and its tilt); "place" (where the actor stands: who watches stands farther away)
        seed: another seed gives other pairs
        split: "train", "validation" or "test"
        verbs: two verbs: only pairs of these, whichever of them is the correct one; empty: pairs of any verbs

    Returns:
        a pairs table of images alone (both prompts are the clean one), with unit, masks of what is asked about,
        subject, object, and parts: the names joined by " + ", or "none"

    Raises:
        VlmtraceError: unknown part, split or verb, or other than two verbs

    Example:
        >>> from vlmtrace.tasks import mixed_poses
        >>> pairs = mixed_poses(2, parts=["legs"])
        >>> pairs[["correct_answer", "incorrect_answer", "parts"]].iloc[0].tolist()
        ['holding', 'watching', 'legs']
    """
    for part in parts:
        one_of(part, POSE_PARTS, "part of a pose")
    mine = [part for part in POSE_PARTS if part in parts]
    one_of(split, SPLITS, "split")
    for verb in verbs:
        one_of(verb, VERBS, "verb")
    if verbs and (isinstance(verbs, str) or len(verbs) != 2 or len(set(verbs)) != 2):
        raise VlmtraceError(f"verbs is {list(verbs)}: name two different verbs, or none for pairs of any verbs.")
    drawn = ((index, sample(TASK, seed, index, split)) for index in count())
    asked = ((index, pair) for index, pair in drawn if pair.category == "verb" and _is_of(pair, verbs))
    return pd.DataFrame([_row(pair, mine, f"{split}-{seed}-{index:05d}") for index, pair in islice(asked, n)])


def _is_of(pair: Pair, verbs: Sequence[str]) -> bool:
    return not verbs or set(pair.options) == set(verbs)


def _row(pair: Pair, parts: list[str], name: str) -> dict[str, object]:
    folder = RAW / "mixed_poses" / f"v{VERSION}"
    said = "+".join(parts) or "none"
    files = {key: folder / f"{name}-{said}-{key}.png" for key in ("clean_image", "clean_object_mask", "corrupt_image")}
    if not all(path.is_file() for path in files.values()):
        clean, corrupt = mixed(pair, parts).render(), pair.corrupt.render()
        write_images(
            dict(zip(files.values(), (clean.pixels, clean.mask(*pair.object_parts), corrupt.pixels), strict=True))
        )
    return {
        "sample_id": f"{TASK}-{name}-{said}",
        "unit": f"{TASK}-{name}",
        "task": TASK,
        "category": "verb",
        **{key: relative(path) for key, path in files.items()},
        "clean_prompt": pair.clean_prompt,
        "corrupt_prompt": pair.clean_prompt,
        "correct_answer": pair.options[0],
        "incorrect_answer": pair.options[1],
        "correct_first": pair.correct_first,
        **{role: pair.roles[role] for role in ("subject", "object")},
        "parts": " + ".join(parts) or "none",
    }


def mixed(pair: Pair, parts: Sequence[str]) -> SvoScene:
    """The scene of a verb pair that has some parts of the clean one's pose, and else is the corrupt one.

    Args:
        pair: of rendered_svo, of the category "verb"
        parts: names of POSE_PARTS
    """
    assert isinstance(pair.corrupt, SvoScene)
    return replace(pair.corrupt, drawn_as=tuple((part, pair.options[0]) for part in parts))
