"""Sentences stay sentences, whatever was given."""

import pytest

from vlmtrace.core.errors import VlmtraceError, one_of


def test_a_long_value_is_not_repeated_whole():
    with pytest.raises(VlmtraceError) as error:
        one_of("[" * 5000, ("mlp", "residual"), "module")
    assert len(str(error.value)) < 300 and str(error.value).endswith("choose one of mlp, residual.")
