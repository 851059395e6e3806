"""What stands in the explorer's address is read back, and nothing of it is believed."""

import pytest

from vlmtrace.app.address import LONGEST, Address, place_and_positions, read_address
from vlmtrace.core.errors import VlmtraceError


@pytest.mark.parametrize(
    "address",
    [
        Address(),
        Address("tiny-blip", "rendered_states-test-0-00000", "patch", "text_encoder.mlp.2@4+5", {"patches": "a@1+2,b"}),
        Address("my models/ä & b", "own 2", settings={"patches": "=&#%+ "}),
    ],
)
def test_an_address_is_read_back(address):
    assert read_address(str(address)) == read_address("#" + str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "patch",
        "a=1&a=2",
        "model=x&model=y",
        "A=1",
        "a" * 25 + "=1",
        "x=" + "y" * 2001,
        "x=%0a",
        "x=%00",
        "=1",
        "&".join(f"a{i}=1" for i in range(3)),
        "&".join(f"{chr(97 + i)}=1" for i in range(20)),
        "model=" + "x" * LONGEST,
        "<script>=1",
    ],
)
def test_what_is_no_address_is_said(text):
    with pytest.raises(VlmtraceError, match="The address cannot be read"):
        read_address(text)


@pytest.mark.parametrize("text", ["a@", "a@x", "a@-1", "a@1,2", "a@1+", "a@²", "a@" + "1+" * 300 + "1", "a@1@2"])
def test_what_are_no_positions_is_said(text):
    with pytest.raises(VlmtraceError, match="are no positions"):
        place_and_positions(text)
