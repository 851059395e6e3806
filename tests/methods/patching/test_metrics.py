"""The patching effect is 0 at corrupt, 1 at clean, linear between, signed beyond, missing without a contrast."""

import numpy as np
import pytest

from vlmtrace.methods.patching.metrics import patching_effect


@pytest.mark.parametrize(("patched", "effect"), [(-2.0, 0.0), (4.0, 1.0), (1.0, 0.5), (-5.0, -0.5), (7.0, 1.5)])
def test_known_values(patched, effect):
    assert patching_effect(patched, clean=4.0, corrupt=-2.0) == effect


def test_sign_holds_when_clean_is_below_corrupt():
    assert patching_effect(-1.0, clean=-3.0, corrupt=1.0) == 0.5


def test_missing_where_clean_equals_corrupt():
    effect = patching_effect([1.0, 1.0], clean=[2.0, 2.0], corrupt=[2.0, 0.0])
    assert np.isnan(effect[0]) and effect[1] == 0.5
