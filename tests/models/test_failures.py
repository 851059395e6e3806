"""What other libraries raise becomes one sentence, and what ends the program goes through."""

import pytest
import torch

import vlmtrace as vt
from vlmtrace.models.failures import explained, reason


class PanicException(BaseException):
    """As pyo3 raises it where Rust code panics."""


@pytest.mark.parametrize(
    "error",
    [
        OSError("no such file"),
        KeyError("hidden_size"),
        AttributeError("'list' object has no attribute 'get'"),
        RecursionError("too deep"),
        OverflowError("too large"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        Exception("expected value at line 1 column 1"),
        PanicException("called `Option::unwrap()` on a `None` value"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_everything_becomes_one_sentence(error):
    with pytest.raises(vt.VlmtraceError) as caught, explained("The weights of m cannot be read", "write them again"):
        raise error
    assert str(caught.value) == f"The weights of m cannot be read ({reason(error)}): write them again."
    assert caught.value.__cause__ is error and reason(error).startswith(type(error).__name__)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_the_program_goes_through(error):
    with pytest.raises(error), explained("m"):
        raise error


def test_a_sentence_stays_as_it_is():
    with pytest.raises(vt.VlmtraceError, match=r"^The rest\.$"), explained("m"):
        raise vt.VlmtraceError("The rest.")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_is_said(error):
    with (
        pytest.raises(vt.VlmtraceError, match=r"\(\w*Error.*\): there is too little memory; use a smaller"),
        explained("m"),
    ):
        raise error


def test_a_package_that_is_missing_is_to_be_installed():
    with (
        pytest.raises(vt.VlmtraceError, match=r"needs flash_attn\): install the package"),
        explained("m"),
    ):
        raise ImportError("needs flash_attn")


def test_reasons_are_one_line():
    assert reason(ValueError("a:\n   b:\n\nc\nd")) == "ValueError: a: b: c"
    assert reason(KeyError()) == "KeyError" and len(reason(ValueError("x" * 10_000))) < 400
    assert reason(ValueError("\x1b[31mred\x1b[0m.")) == "ValueError: red"
