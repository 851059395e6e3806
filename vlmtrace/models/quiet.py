"""What libraries say while a model is loaded and its user has nothing to do about it, kept from being shown."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """While this is entered, what loads a model says nothing of which its user has nothing to do.

    On some processors bitsandbytes looks for a faster product by a package that it does not require (kernels), and
    warns if there is none; accelerate tells that weights lie where its user has put them.
    """

    def not_of_kernels(record: logging.LogRecord) -> bool:
        return "kernels" not in record.getMessage()

    def not_of_offloading(record: logging.LogRecord) -> bool:
        return "on the meta device because they were offloaded" not in record.getMessage()

    filters = {"bitsandbytes.backends.cpu.ops": not_of_kernels, "accelerate.big_modeling": not_of_offloading}
    loggers = [(logging.getLogger(name), said) for name, said in filters.items()]
    for logger, said in loggers:
        logger.addFilter(said)
    try:
        with warnings.catch_warnings():
            # A device map may name single weights.
            warnings.filterwarnings("ignore", "The following device_map keys do not match any submodules")
            yield
    finally:
        for logger, said in loggers:
            logger.removeFilter(said)


@contextlib.contextmanager
def without_table() -> Iterator[None]:
    """While this is entered, transformers does not print its table of keys: what matters in it is told or refused."""
    logger = logging.getLogger("transformers.modeling_utils")

    def only_errors(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger.addFilter(only_errors)  # with another level of its own, this logger says more than before
    try:
        yield
    finally:
        logger.removeFilter(only_errors)
