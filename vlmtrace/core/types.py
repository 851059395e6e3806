"""Types that several rooms share."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

#: A NumPy array of any shape and number type. What its axes mean stands beside the variable, as in `# (pair, head)`.
Array = npt.NDArray[Any]
