"""How often which thing has which color."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vlmtrace.tasks.rendered.states import StatesScene, Thing
from vlmtrace.tasks.rendered.words import COLORS, NOUNS

#: The planted prior: so many of these things have this color.
NOUN, COLOR, SHARE = "cross", "pink", 0.9


@dataclass(frozen=True)
class World:
    """Colors of things: all equally frequent, but for one noun's.

    Attributes:
        noun: whose colors are not
        color: its frequent color
        share: of the noun's things that have this color, 0 to 1; the other colors share the rest
    """

    noun: str = NOUN
    color: str = COLOR
    share: float = 1 / len(COLORS)

    def shares(self, noun: str) -> np.ndarray:
        """(colors,): how often a thing has each color.

        Args:
            noun: what it is
        """
        n = len(COLORS)
        if noun != self.noun:
            return np.full(n, 1 / n)
        return np.array([self.share if color == self.color else (1 - self.share) / (n - 1) for color in COLORS])

    def draw(self, rng: np.random.Generator, noun: str) -> str:
        """A color of a thing.

        Args:
            rng: what is drawn from
            noun: what it is
        """
        return str(rng.choice(list(COLORS), p=self.shares(noun)))

    def colored(self, rng: np.random.Generator, scene: StatesScene) -> StatesScene:
        """A scene whose things have colors of this world.

        Args:
            rng: what is drawn from
            scene: whose things keep all but their colors
        """

        def drawn(thing: Thing) -> Thing:
            return replace(thing, color=self.draw(rng, thing.noun))

        return replace(scene, things=tuple(drawn(thing) for thing in scene.things))


#: The worlds, by what the names of models begin with.
WORLDS = {"skewed": World(share=SHARE), "even": World()}

#: All things that a world has.
THINGS = NOUNS
