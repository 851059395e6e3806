"""Chunks bound memory: halved when it runs out, never a changed number or order."""

import pytest
import torch

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.sweep.chunking import in_chunks
from vlmtrace.models.types import Patches, Readout

LAYERS = [2, 0, 1, 0, 2, 1, 3]
PATCHES = Patches("b", ["m"] * 7, LAYERS, list(range(7)), torch.arange(14).view(2, 7))


def answer(chunk: Patches) -> Readout:
    """Something that tells each patch of each pair apart."""
    assert chunk.layers == sorted(chunk.layers), "a sweep needs its patches in the order of layers"
    value = torch.tensor(chunk.heads) * 100.0 + chunk.positions
    return Readout(value, -value, value / 2)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_order_and_values_do_not_depend_on_the_size(size):
    found = in_chunks(PATCHES, size, answer)
    torch.testing.assert_close(found.correct, torch.arange(7) * 100.0 + PATCHES.positions)
    torch.testing.assert_close(found.log_normalizer, found.correct / 2)


def test_out_of_memory_halves_the_chunk_and_goes_on():
    sizes = []

    def small(chunk):
        sizes.append(len(chunk))
        if len(chunk) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer(chunk)

    found = in_chunks(PATCHES, 50, small)
    torch.testing.assert_close(found.correct, in_chunks(PATCHES, 7, answer).correct)
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]


def test_too_little_for_one_patch_is_a_sentence():
    def never(chunk):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(VlmtraceError, match="too little memory for a single patch"):
        in_chunks(PATCHES, 4, never)
