"""The collector is paused, and comes back as it was."""

import gc

import pytest

from vlmtrace.core.collector import paused_collection


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_comes_back_as_it_was_even_after_an_error(was_on):
    try:
        gc.enable() if was_on else gc.disable()
        with pytest.raises(KeyError), paused_collection():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() is was_on
    finally:
        gc.enable()
