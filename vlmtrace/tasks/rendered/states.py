"""Scenes of two things of different nouns, each with a color, a shape and a texture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from vlmtrace.tasks.rendered.canvas import INK, SCALE, SIZE, Backdrop, Canvas, Color, Rendered, mixed
from vlmtrace.tasks.rendered.words import COLORS, NOUNS, SHAPES, TEXTURES, is_held_out

#: A thing that is neither tiny nor huge, tall nor wide, broken nor hollow; never asked about.
ORDINARY = "ordinary"

#: Half width and half height, in pixels.
_EXTENTS = {
    "tiny": (9.0, 9.0),
    "huge": (20.5, 20.5),
    "tall": (11.0, 22.0),
    "wide": (22.0, 11.0),
    "broken": (17.0, 17.0),
    "hollow": (17.0, 17.0),
    ORDINARY: (15.0, 15.0),
}
#: Shapes on which every texture can be told apart.
TEXTURED_SHAPES = ("huge", "tall", "wide", ORDINARY)

_DARK = ("black", "brown", "purple", "blue", "green", "red")


@dataclass(frozen=True)
class Thing:
    """One thing of a scene.

    Attributes:
        noun: what it is
        color: as a word
        shape: as a word; `ORDINARY` where it is never asked about
        texture: as a word
        x: its middle, in pixels
        y: its middle, in pixels
        phase: shift of its texture, in drawing pixels
    """

    noun: str
    color: str
    shape: str
    texture: str
    x: float
    y: float
    phase: tuple[int, int] = (0, 0)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom, in pixels."""
        rx, ry = _EXTENTS[self.shape]
        return self.x - rx, self.y - ry, self.x + rx, self.y + ry

    def value(self, category: str) -> str:
        """Its word for a category: color, shape or texture."""
        return getattr(self, category)

    def with_value(self, category: str, value: str) -> Thing:
        """The same thing with another color, shape or texture.

        Args:
            category: which of them changes
            value: the new word
        """
        return replace(self, **{category: value})  # type: ignore[arg-type]

    def is_seen(self) -> bool:
        """Whether all its combinations occur in training."""
        values = (self.color, self.texture) + (() if self.shape == ORDINARY else (self.shape,))
        return not any(is_held_out(self.noun, value) for value in values)


@dataclass(frozen=True)
class StatesScene:
    """Several things; part k + 1 of the rendered image is `things[k]`.

    Attributes:
        backdrop: what is behind
        things: the first is the one that pairs ask about
    """

    backdrop: Backdrop
    things: tuple[Thing, ...]

    def render(self) -> Rendered:
        """Draw the scene."""
        canvas = Canvas(self.backdrop)
        for part, thing in enumerate(self.things, 1):
            canvas.part = part
            draw_thing(canvas, thing)
        return canvas.finish()

    def with_value(self, category: str, value: str) -> StatesScene:
        """The minimal change: the first thing with another color, shape or texture.

        Args:
            category: which of them changes
            value: the new word
        """
        return replace(self, things=(self.things[0].with_value(category, value), *self.things[1:]))

    def labels(self) -> dict[int, dict[str, str]]:
        """What is true of each part of the rendered scene: part → attribute → word."""
        return {
            part: {"thing": t.noun, "color": t.color, "shape": t.shape, "texture": t.texture}
            for part, t in enumerate(self.things, 1)
        }


def sample_scene(
    rng: np.random.Generator,
    category: str,
    values: tuple[str, str],
    distractor_value: str,
    held_out: bool = False,
) -> StatesScene:
    """A scene whose first thing has values[0] and can be given values[1] instead.

    Args:
        rng: what is drawn from
        category: "color", "shape" or "texture"
        values: the two values that the asked-about thing takes in the pair
        distractor_value: what the other thing shows in this category
        held_out: allow the asked-about thing combinations that never occur in training
    """
    backdrop = Backdrop.sample(rng)
    while True:
        nouns = rng.choice(NOUNS, 2, replace=False)
        target = _sample_thing(rng, str(nouns[0]), category, values[0])
        distractor = _sample_thing(rng, str(nouns[1]), category, distractor_value)
        variants = [target, target.with_value(category, values[1])]
        if not distractor.is_seen() or not (held_out or all(v.is_seen() for v in variants)):
            continue
        for _ in range(20):
            variants, [distractor] = _placed(rng, variants), _placed(rng, [distractor])
            if not any(_overlap(variant, distractor) for variant in variants):
                return StatesScene(backdrop, (variants[0], distractor))


def sample_count_scene(rng: np.random.Generator) -> tuple[StatesScene, str, int]:
    """A random scene in which things can be counted.

    Args:
        rng: what is drawn from

    Returns:
        a scene of one to six tiny plain things, the noun to count, and how many of it there are (1 to 4)
    """
    countable = [noun for noun in NOUNS if not (is_held_out(noun, "tiny") or is_held_out(noun, "plain"))]
    counted, other = (str(noun) for noun in rng.choice(countable, 2, replace=False))
    n, n_other = int(rng.integers(1, 5)), int(rng.integers(0, 3))
    cells = rng.permutation([(x, y) for x in (18, 48, 78) for y in (18, 48, 78)])
    things = []
    for noun, (x, y) in zip([counted] * n + [other] * n_other, cells, strict=False):
        while not (thing := _counted_thing(rng, noun, x, y)).is_seen():
            pass
        things.append(thing)
    return StatesScene(Backdrop.sample(rng), tuple(things)), counted, n


def _counted_thing(rng: np.random.Generator, noun: str, x: float, y: float) -> Thing:
    return Thing(
        noun,
        str(rng.choice(list(COLORS))),
        "tiny",
        "plain",
        x + rng.uniform(-3, 3),
        y + rng.uniform(-3, 3),
    )


def _sample_thing(rng: np.random.Generator, noun: str, category: str, value: str) -> Thing:
    shapes = TEXTURED_SHAPES if category == "texture" else (*SHAPES, ORDINARY)
    thing = Thing(
        noun,
        color=str(rng.choice(list(COLORS))),
        shape=str(rng.choice(shapes)),
        texture="plain" if rng.uniform() < 0.25 else str(rng.choice(TEXTURES)),
        x=0.0,
        y=0.0,
        phase=tuple(rng.integers(0, 60, 2).tolist()),
    )
    return thing.with_value(category, value)


def _placed(rng: np.random.Generator, variants: list[Thing]) -> list[Thing]:
    """All variants of a thing at one place at which each of them lies inside the picture."""
    rx, ry = np.array([_EXTENTS[thing.shape] for thing in variants]).max(0) + 2
    x, y = rng.uniform(rx, SIZE - rx), rng.uniform(ry, SIZE - ry)
    return [replace(thing, x=x, y=y) for thing in variants]


def _overlap(a: Thing, b: Thing) -> bool:
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.box, b.box
    return ax0 < bx1 + 1 and bx0 < ax1 + 1 and ay0 < by1 + 1 and by0 < ay1 + 1


def draw_thing(canvas: Canvas, thing: Thing) -> None:
    """Draw a thing with its outline, texture, gaps and a soft shadow.

    Args:
        canvas: what is drawn on; its current part is marked
        thing: what is drawn
    """
    corner, side = _window(thing)
    base, ink = COLORS[thing.color], texture_ink(thing.color)
    points = _outline(thing)
    inside = Image.new("L", side)
    ImageDraw.Draw(inside).polygon(points, fill=255)
    visible = inside.copy()
    ImageDraw.Draw(visible).line([*points, points[0], points[1]], 255, SCALE + 1, joint="curve")

    layer = Image.new("RGB", side, INK)
    layer.paste(base, mask=inside)
    if thing.texture in _PATTERNS:
        px, py = thing.phase
        pattern = _PATTERNS[thing.texture]().crop((px, py, px + side[0], py + side[1]))
        layer.paste(ink, mask=ImageChops.darker(inside, pattern))
    brush, eraser = ImageDraw.Draw(layer), ImageDraw.Draw(visible)
    if thing.texture == "furry":
        _draw_hairs(brush, thing, ink)
    brush.line([*points, points[0], points[1]], INK, SCALE + 1, joint="curve")
    if thing.shape == "broken":
        crack = _crack(thing)
        brush.line(crack, INK, 7 * SCALE, joint="curve")
        eraser.line(crack, 0, 5 * SCALE, joint="curve")
    elif thing.shape == "hollow":
        hole = _hole(thing)
        brush.polygon(hole, fill=INK)
        brush.line([*hole, hole[0], hole[1]], INK, 2 * SCALE)
        eraser.polygon(hole, fill=0)

    shadow = visible.point([v * 2 // 9 for v in range(256)])
    shifted = (corner[0] + 2 * SCALE, corner[1] + 2 * SCALE)
    canvas.image.paste(mixed(canvas.backdrop.bottom, INK, 0.8), shifted, shadow)
    canvas.stamp(layer, visible, corner)


def _window(thing: Thing) -> tuple[tuple[int, int], tuple[int, int]]:
    """Corner and size, in drawing pixels, of the part of the canvas that a thing can touch; multiples of SCALE."""
    x0, y0, x1, y1 = thing.box
    left, top = int(x0) - 5, int(y0) - 5
    return (left * SCALE, top * SCALE), ((int(x1) + 6 - left) * SCALE, (int(y1) + 6 - top) * SCALE)


def texture_ink(color: str) -> Color:
    """The second color of a textured thing: lighter on dark things, darker on light ones.

    Args:
        color: the thing's, as a word
    """
    return mixed(COLORS[color], (255, 255, 255), 0.68) if color in _DARK else mixed(COLORS[color], INK, 0.58)


def _unit(noun: str) -> np.ndarray:
    """(points, 2): outline of a noun within [-1, 1]²."""
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    match noun:
        case "circle":
            return np.stack([np.cos(turn), np.sin(turn)], 1)
        case "square":
            return np.array([(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)])
        case "triangle":
            return np.array([(0, -1), (1, 0.9), (-1, 0.9)])
        case "star":
            angles = np.linspace(0, 2 * np.pi, 10, endpoint=False) - np.pi / 2
            radii = np.where(np.arange(10) % 2, 0.45, 1.08)
            return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)
        case "heart":
            x = np.sin(turn) ** 3
            y = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
            return np.stack([x, (-y - 2.5) / 14.5], 1)
        case "cross":
            a = 0.36
            corners = [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a)]
            return np.array([*corners, (-1, -a), (-a, -a)])
        case "diamond":
            return np.array([(0, -1.05), (0.78, 0), (0, 1.05), (-0.78, 0)])
        case "crescent":
            outer = np.linspace(0.22 * np.pi, 1.78 * np.pi, 30)
            inner = np.linspace(1.62 * np.pi, 0.38 * np.pi, 22)
            rim = np.stack([np.cos(outer), np.sin(outer)], 1)
            bite = np.stack([0.47 + 0.76 * np.cos(inner), 0.72 * np.sin(inner)], 1)
            return np.concatenate([rim, bite]) + np.array([0.12, 0])
    raise KeyError(noun)


@cache
def _dense_unit(noun: str) -> np.ndarray:
    """(56, 2): the outline resampled at equal distances."""
    points = _unit(noun)
    closed = np.concatenate([points, points[:1]])
    along = np.concatenate([[0], np.linalg.norm(np.diff(closed, axis=0), axis=1).cumsum()])
    at = np.linspace(0, along[-1], 56, endpoint=False)
    return np.stack([np.interp(at, along, closed[:, i]) for i in (0, 1)], 1)


def _outline(thing: Thing) -> list[tuple[float, float]]:
    """Outline in drawing pixels; the outline of a furry thing is a row of spikes."""
    extents = np.array(_EXTENTS[thing.shape])
    if thing.texture == "furry":
        points = _dense_unit(thing.noun) * extents
        direction = points / np.linalg.norm(points, axis=1, keepdims=True).clip(1e-6)
        points = points + direction * np.where(np.arange(len(points)) % 2, 2.4, -1.6)[:, None]
    else:
        points = _unit(thing.noun) * extents
    return _pixels(thing, points)


def _pixels(thing: Thing, points: np.ndarray) -> list[tuple[float, float]]:
    """From pixels around the thing's middle to drawing pixels of its window."""
    corner, _ = _window(thing)
    return [(float(x), float(y)) for x, y in (points + np.array([thing.x, thing.y])) * SCALE - corner]


def _draw_hairs(brush: ImageDraw.ImageDraw, thing: Thing, ink: Color) -> None:
    extents = np.array(_EXTENTS[thing.shape])
    for ring in (0.8, 0.52, 0.24):
        for index in range(0, 56, 3 if ring > 0.5 else 6):
            root = _dense_unit(thing.noun)[index] * extents * ring
            tip = root * 1.0 + root / max(np.linalg.norm(root), 1e-6) * 3.2
            brush.line(_pixels(thing, np.stack([root, tip])), ink, SCALE + 1)


def _crack(thing: Thing) -> list[tuple[float, float]]:
    rx, ry = np.array(_EXTENTS[thing.shape]) * 1.25
    heights = np.linspace(-1, 1, 7)
    zigzag = np.where(np.arange(7) % 2, 0.16, -0.16) + heights * 0.3
    return _pixels(thing, np.stack([zigzag * rx, heights * ry], 1))


def _hole(thing: Thing) -> list[tuple[float, float]]:
    scale = {"crescent": 0.0, "cross": 0.5, "star": 0.52}.get(thing.noun, 0.56)
    if thing.noun == "crescent":
        # A thin moon inside the moon.
        return _pixels(thing, (_unit("crescent") * (0.72, 0.72) + (-0.12, 0)) * np.array(_EXTENTS[thing.shape]))
    center = np.array({"triangle": (0, 0.28), "heart": (0, -0.08)}.get(thing.noun, (0, 0)))
    return _pixels(thing, (_unit(thing.noun) * scale + center * (1 - scale)) * np.array(_EXTENTS[thing.shape]))


#: Patterns are cut out of larger sheets at a thing's phase.
_PATTERN_SIDE = SIZE * SCALE + 60


@cache
def _stripes() -> Image.Image:
    y, x = np.mgrid[:_PATTERN_SIDE, :_PATTERN_SIDE] / SCALE
    return _pattern((x + y) % 9.6 < 4.2)


@cache
def _dots() -> Image.Image:
    y, x = np.mgrid[:_PATTERN_SIDE, :_PATTERN_SIDE] / SCALE
    row = np.floor(y / 8)
    return _pattern(((x + 4 * (row % 2)) % 8 - 4) ** 2 + (y % 8 - 4) ** 2 < 2.5**2)


@cache
def _checks() -> Image.Image:
    y, x = np.mgrid[:_PATTERN_SIDE, :_PATTERN_SIDE] / SCALE
    return _pattern((np.floor(x / 6) + np.floor(y / 6)) % 2 == 0)


@cache
def _zigzags() -> Image.Image:
    y, x = np.mgrid[:_PATTERN_SIDE, :_PATTERN_SIDE] / SCALE
    return _pattern((y + np.abs(x % 12 - 6)) % 9.6 < 3.6)


def _pattern(where: np.ndarray) -> Image.Image:
    return Image.fromarray(where.astype(np.uint8) * 255)


_PATTERNS = {"striped": _stripes, "dotted": _dots, "checkered": _checks, "zigzag": _zigzags}
