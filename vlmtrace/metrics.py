"""What a patch did, as a number.

LD = logit(correct) − logit(incorrect) at the first answer position. A logit difference is linear in the logits, so
halves of an effect add up to the effect; a probability is not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Clean and corrupt logit differences closer than this have no contrast that an effect could be a share of.
SMALLEST_GAP = 1e-6


def patching_effect(patched: ArrayLike, clean: ArrayLike, corrupt: ArrayLike) -> NDArray[np.float64]:
    """Share of the clean-corrupt gap that a patch closes: (LD_patched − LD_corrupt) / (LD_clean − LD_corrupt).

    0: the patch did nothing; 1: it restored the clean answer in full; negative: it made things worse. Missing (NaN)
    where clean and corrupt do not differ. Arguments broadcast.

    >>> patching_effect([0.0, 1.0, 3.0], clean=2.0, corrupt=0.0)
    array([0. , 0.5, 1.5])
    >>> patching_effect(1.0, clean=2.0, corrupt=2.0)
    array(nan)
    """
    patched, clean, corrupt = (np.asarray(value, dtype=np.float64) for value in (patched, clean, corrupt))
    gap = clean - corrupt
    usable = np.abs(gap) > SMALLEST_GAP
    with np.errstate(invalid="ignore"):
        return np.where(usable, (patched - corrupt) / np.where(usable, gap, 1.0), np.nan)[()]
