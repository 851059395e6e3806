"""Which rows of the residual stream carry what.

Two rows are very large and the same everywhere, one the opposite of the other, so that norms divide by the same number
whatever the other rows hold, and so that there is a 1 to make biases of. The sum of all others is made up for in one
row more, as some norms subtract the mean.
"""

from __future__ import annotations

from vlmtrace.tasks.rendered.words import COLORS, NOUNS

#: Width of the stream, heads of a layer, width of a head: those of the bundled models.
WIDTH, HEADS, HEAD_WIDTH = 128, 8, 16

#: What the large row holds, in a stream whose other rows hold 0 to 2; the opposite one holds -LARGE.
LARGE = 64.0

_SIZES = {
    "large": 1,
    "opposite": 1,
    "balance": 1,  # what makes the mean 0
    "start": 1,  # the first token
    "ends": 1,  # the token that ends a question or an answer
    "asks": 1,  # the token at which the answer is read
    "names a noun": 1,
    "names a color": 1,
    "named noun": len(NOUNS),  # of a word
    "named color": len(COLORS),
    "seen noun": len(NOUNS),  # of a patch
    "seen color": len(COLORS),
    "found color": len(COLORS),  # at the noun's token
    "clear color": len(COLORS),  # the same, 0 or 1
    "moved color": len(COLORS),  # at the token that asks
    "options": len(COLORS),
    "answer": len(COLORS),
}

_ENDS = [sum(list(_SIZES.values())[: i + 1]) for i in range(len(_SIZES))]

#: Rows by what they carry; "nothing": those that nobody in a circuit reads.
ROWS: dict[str, slice] = {
    name: slice(end - size, end) for (name, size), end in zip(_SIZES.items(), _ENDS, strict=True)
} | {"nothing": slice(_ENDS[-1], WIDTH)}


#: The deviation of a stream from 0, by which norms divide.
DEVIATION = (2 * LARGE**2 / WIDTH) ** 0.5
