"""The lines of Python that patch what is patched in the view."""

from __future__ import annotations

from collections.abc import Sequence

from vlmtrace.methods.patching.intervention import Patch
from vlmtrace.methods.patching.pair_effects import SEED
from vlmtrace.methods.patching.waterfall import DRAWS


def code_of(patches: Sequence[Patch], corruption: str, direction: str) -> list[str]:
    """Lines that follow those which load the model and name the pair.

    Args:
        patches: in their order
        corruption: the corrupt run
        direction: "denoising" or "noising"

    Example:
        >>> code_of([Patch("text_encoder", "mlp", 1)], "image", "noising")[3]
        "run = {'corruption': 'image', 'direction': 'noising'}"
    """
    lines = [
        "patches = [",
        *(f"    {patch!r}," for patch in patches),
        "]",
        f"run = {{'corruption': {corruption!r}, 'direction': {direction!r}}}",
        "outcome = intervene(model, pair, patches, **run)",
        "print(outcome)",
        "outcome.table()",
    ]
    if patches:
        lines += [f"steps = patch_waterfall(model, pair, patches, **run, n_draws={DRAWS}, seed={SEED})", "steps"]
    return lines
