"""Which heads carry the image, and which the words."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from vlmtrace.core import stats
from vlmtrace.core.arguments import Probability, Seed, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import HEAD, UNIT, check_table
from vlmtrace.core.types import Array
from vlmtrace.methods.patching.direction import DIRECTIONS

_NEEDED = ("sample_id", "corruption", *HEAD, "logit_diff")


@checked
def head_sides(
    image_effects: pd.DataFrame, words_effects: pd.DataFrame, alpha: Probability = 0.05, seed: Seed = 0
) -> pd.DataFrame:
    """Say of each head whether it carries the image, the words, or both.

    Both tables are of the same pairs, of which either corruption lets one side speak for the incorrect answer: the
    corrupt image shows it, the corrupt prompt says it (see `reword`). A head that brings the correct answer back when
    the image is corrupt carries the image; one that brings it back when the prompt is corrupt carries the words. Both
    are measured in logits, since shares of unlike gaps cannot be compared.

    Args:
        image_effects: from `patch_whole_heads` (or `patch_heads` at one position) with corruption="image", denoising
        words_effects: from the same function with corruption="text", of the same pairs, best with contrast="options",
            so that both measure the same two answers
        alpha: the false discovery rate, 0 to 1
        seed: of bootstrap and test

    Returns:
        the head_sides table, one row per head: block, module, layer, head, n (pairs in both tables), n_units; image and
        words, each the mean over units of its effect in logits, with the 95 % interval (…_low, …_high) and …_q_value,
        corrected over all heads (Benjamini and Hochberg 1995, https://doi.org/10.1111/j.2517-6161.1995.tb02031.x);
        difference (words − image); side

    Raises:
        VlmtraceError: a column is missing, a table is of the other corruption or of noising, a head stands twice in a
            pair, or both tables have no pair in common

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.reword(vt.load_pairs("rendered_states", n=2), "The {noun} is {answer}. {question}", "leading")
        >>> effects = [vt.patch_whole_heads(model, pairs, which, contrast="options") for which in ("image", "text")]
        >>> sides = vt.head_sides(*effects)
        >>> len(sides), int(sides["n"].iloc[0])
        (160, 2)
    """
    given = {"image": image_effects, "words": words_effects}
    matrices = {}
    for side, corruption in (("image", "image"), ("words", "text")):
        table = check_table(given[side], _NEEDED, "whole_heads")
        others = sorted(set(table["corruption"]) - {corruption})
        if others:
            raise VlmtraceError(
                f"The effects of {side} are those of {corruption} corruption, and this table holds "
                f"{', '.join(map(repr, others))}: pass what corruption={corruption!r} gives."
            )
        others = sorted(set(table["direction"]) - {DIRECTIONS[0]}) if "direction" in table else []
        if others:
            raise VlmtraceError(
                f"What a head brings back is measured by denoising, and the effects of {side} hold "
                f"{', '.join(map(repr, others))}: pass what direction={DIRECTIONS[0]!r} gives."
            )
        if table.duplicated(["sample_id", *HEAD]).any():
            raise VlmtraceError(
                "A head stands twice in a pair: pass effects of whole heads, in one direction, of one task."
            )
        matrices[side] = table.pivot(index="sample_id", columns=HEAD, values="logit_diff")
    names = [name for name in matrices["image"].index if name in matrices["words"].index]
    heads = [head for head in _heads(image_effects) if head in matrices["words"].columns]
    if not names or not heads:
        raise VlmtraceError("Both tables have no pair and head in common: patch the same pairs under both corruptions.")
    units = _units(image_effects, names)
    columns: dict[str, Array] = {}
    for side, matrix in matrices.items():
        values = stats.unit_means(matrix.loc[names, heads].to_numpy(), units)  # (unit, head)
        low, high = stats.mean_interval(values, seed=seed)
        q_value = false_discovery_control(stats.mean_test(values, seed=seed))
        columns |= {side: values.mean(0), f"{side}_low": low, f"{side}_high": high, f"{side}_q_value": q_value}
    found = pd.DataFrame(heads, columns=HEAD).assign(n=len(names), n_units=len(values), **columns)
    carries = [(found[side] > 0) & (found[f"{side}_q_value"] < alpha) for side in ("image", "words")]
    sides = np.select([carries[0] & carries[1], carries[0], carries[1]], ["both", "image", "words"], "neither")
    return found.assign(difference=found["words"] - found["image"], side=sides)


def _heads(effects: pd.DataFrame) -> list[tuple]:
    """The heads of a table in its order."""
    return list(dict.fromkeys(effects[HEAD].itertuples(index=False, name=None)))


def _units(effects: pd.DataFrame, names: list[str]) -> list[str]:
    if UNIT not in effects:
        return names
    by_name = effects.drop_duplicates("sample_id").set_index("sample_id")[UNIT]
    return by_name.loc[names].tolist()
