"""While a model is loaded, libraries say nothing of which its user has nothing to do; all else is heard."""

import logging
import warnings

import pytest

from vlmtrace.models.quiet import quiet_libraries

SAID = [
    ("bitsandbytes.backends.cpu.ops", "Failed to load it from kernels-community: No module named 'kernels'."),
    ("accelerate.big_modeling", "Some parameters are on the meta device because they were offloaded to the disk."),
]


@pytest.mark.parametrize(("name", "said"), SAID)
def test_only_this_is_not_heard_and_only_then(caplog, name, said):
    logger = logging.getLogger(name)
    with caplog.at_level(logging.WARNING), quiet_libraries():
        logger.warning(said)
        logger.warning("another thing")
    assert [record.getMessage() for record in caplog.records] == ["another thing"]
    logger.warning(said)
    assert caplog.records[-1].getMessage() == said


def test_a_map_that_names_weights_is_not_warned_of():
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with quiet_libraries():
            warnings.warn("The following device_map keys do not match any submodules in the model: ['x']", stacklevel=1)
            warnings.warn("another thing", stacklevel=1)
    assert [str(one.message) for one in heard] == ["another thing"]
