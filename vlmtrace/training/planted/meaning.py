"""What a planted circuit means: its variables, and what is answered when one of them is another run's.

The high-level causal model of interchange interventions (Geiger et al. 2021, https://arxiv.org/abs/2106.02997).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vlmtrace.tasks.rendered.words import NEITHER
from vlmtrace.training.planted.circuits import AGAINST
from vlmtrace.training.planted.plan import Plan
from vlmtrace.training.planted.words import GAIN, OF_NEITHER


@dataclass(frozen=True)
class Facts:
    """What a run is about.

    Attributes:
        color: of the named thing
        options: the two words of the question
    """

    color: str
    options: tuple[str, str]


def expected_logits(plan: Plan, base: Facts, source: Facts, changed: frozenset[str] = frozenset()) -> dict[str, float]:
    """Logits of the words that can be answered, where some nodes give what they give in another run.

    Args:
        plan: the circuit
        base: what the run is about
        source: what the other run is about
        changed: names of the nodes that give what they give there

    Returns:
        by word; words that are not in it have 0
    """

    def color(name: str) -> str:
        """What a node carries of the color."""
        below = {"finder", "clearer"} if name not in ("finder", "clearer") else {"finder"}
        return source.color if changed & {name, *below} else base.color

    names = list(plan.nodes)
    options = (source if "collector" in changed else base).options
    moved = {color(name) for name in names if name.endswith("mover")}
    answered = {one for one in moved if one in options}
    if "comparer" in changed:
        answered = {source.color} & set(source.options)
    logits = {NEITHER: OF_NEITHER} | dict.fromkeys((base.color, source.color, *base.options, *source.options), 0.0)
    for one in answered:
        logits[one] += GAIN
    if "opponent" in names:
        logits[color("opponent")] += AGAINST * GAIN
    return logits


def accepted(logits: Mapping[str, float]) -> set[str]:
    """The words with the largest logit: two where two are equal.

    Args:
        logits: by word

    >>> sorted(accepted({"red": 10.0, "blue": 10.0, "neither": 3.0}))
    ['blue', 'red']
    """
    most = max(logits.values())
    return {word for word, logit in logits.items() if logit == most}
