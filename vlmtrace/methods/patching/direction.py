"""Denoising and noising: which of a pair's two runs is patched, and from which one.

Denoising copies clean activations into the corrupt run and asks what is **enough** to bring the clean answer back;
noising copies corrupt activations into the clean run and asks what the clean answer **needs**. Where heads back each
other up, each of them alone is enough and none is needed: the two then differ (Heimersheim and Nanda 2024,
https://arxiv.org/abs/2404.15255).

Everything that patches knows one direction: from `clean` into `corrupt`. Noising is the same with the runs in each
other's place, so the effect needs no sign of its own:

    denoising: (LD_patched − LD_corrupt) / (LD_clean − LD_corrupt)    1: the clean answer is back
    noising:   (LD_patched − LD_clean) / (LD_corrupt − LD_clean)      1: as much is lost as the corruption takes
"""

from __future__ import annotations

from dataclasses import replace

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import one_of
from vlmtrace.inputs.pair_runs import PairRuns, WholeRuns

#: What may be asked for as `direction`.
DIRECTIONS = ("denoising", "noising")


@checked
def in_direction(runs: PairRuns, direction: str) -> PairRuns:
    """The runs as patching takes them: `clean` is copied from, and `corrupt` is patched.

    Args:
        runs: clean and corrupt runs of pairs
        direction: "denoising" or "noising"

    Returns:
        the same runs; for noising each in the other's place

    Raises:
        VlmtraceError: there is no such direction
    """
    if one_of(direction, DIRECTIONS, "direction") == "denoising":
        return runs
    return replace(
        runs,
        clean_inputs=runs.inputs,
        inputs=runs.clean_inputs,
        clean=runs.corrupt,
        corrupt=runs.clean,
        clean_readout=runs.corrupt_readout,
        corrupt_readout=runs.clean_readout,
        whole=None if runs.whole is None else (_swapped(runs.whole[0]), _swapped(runs.whole[1])),
    )


def _swapped(side: WholeRuns) -> WholeRuns:
    return replace(side, clean_inputs=side.inputs, inputs=side.clean_inputs, clean=side.corrupt, corrupt=side.clean)
