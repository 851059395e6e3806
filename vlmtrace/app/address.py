"""What of the explorer stands in its address, so that a finding can be sent.

An address comes from anywhere. Nothing of it is believed here but its form: that a model, a pair, a view or a place
exists is asked where it is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from vlmtrace.core.errors import VlmtraceError

#: The setting that is 1 in the app's kernels: there the page says first what its address asks for.
IN_APP = "VLMTRACE_APP"

#: Names of what the explorer itself chooses; others are a view's settings.
OWN_NAMES = ("model", "pair", "view", "select", "own")

#: A longer address is not read.
LONGEST = 6000

#: What a view may call its settings, and how long the value may be.
NAME, LONGEST_VALUE = re.compile(r"[a-z_]{1,24}"), 2000

#: What stands beside the copied link, and in the place of the pair where one is opened.
NOT_IN_LINK = "The link holds no images: whoever opens it is not shown this pair of your own, only which view is open."
NOT_HERE = (
    "The link is of a pair of somebody's own, whose images are not in a link, so a pair of the table stands here: open "
    "those images at the left."
)


class Address(NamedTuple):
    """What is shown.

    Attributes:
        model: its name; "": the one that is open
        pair: sample_id; "": the one that is shown
        view: its name, see `View.name`; "": the first
        select: what is selected, with its positions behind an @; "": nothing
        settings: of the view, see `View.settings`
        own: of a pair of somebody's own, whose images are in no address: its `fingerprint`; "": of a pair of the table
    """

    model: str = ""
    pair: str = ""
    view: str = ""
    select: str = ""
    settings: Mapping[str, str] = {}
    own: str = ""

    def __str__(self) -> str:
        """As it stands behind the # of the address."""
        known = {name: getattr(self, name) for name in OWN_NAMES if getattr(self, name)}
        return urlencode({**known, **self.settings})


def read_address(text: str) -> Address:
    """What an address says.

    Args:
        text: what stands behind its #

    Raises:
        VlmtraceError: it is too long, names something twice, or names what no setting can be called

    Example:
        >>> read_address("model=tiny-blip&view=patch&select=text_encoder.mlp.2%404")[2:4]
        ('patch', 'text_encoder.mlp.2@4')
    """
    text = text.removeprefix("#")
    try:
        found = parse_qsl(text, strict_parsing=True, max_num_fields=16) if text and len(text) <= LONGEST else []
    except ValueError:
        found = []
    values = dict(found)
    fits = (NAME.fullmatch(name) and len(value) <= LONGEST_VALUE and value.isprintable() for name, value in found)
    if (text and not found) or len(values) < len(found) or not all(fits):
        raise VlmtraceError("The address cannot be read behind its #: copy it whole from the explorer's 'copy link'.")
    own = {name: values.pop(name) for name in OWN_NAMES if name in values}
    return Address(**own, settings=values)


def place_and_positions(select: str) -> tuple[str, list[int] | None]:
    """What is selected, and at which positions.

    Args:
        select: as it stands in an address

    Raises:
        VlmtraceError: what stands behind the @ are no positions

    Example:
        >>> place_and_positions("text_encoder.mlp.2@4+5")
        ('text_encoder.mlp.2', [4, 5])
    """
    place, at, positions = select.partition("@")
    if not at:
        return place, None
    if not re.fullmatch(r"[0-9]{1,6}(\+[0-9]{1,6}){0,199}", positions):
        raise VlmtraceError(f"{positions[:60]!r} are no positions: write numbers with + between them, such as @4+5.")
    return place, [int(position) for position in positions.split("+")]
