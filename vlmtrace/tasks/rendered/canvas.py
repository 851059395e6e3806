"""A canvas that remembers which part of the scene every pixel shows."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Point = tuple[float, float]

#: Side of an image, in pixels; all coordinates of the drawing code are in these units.
SIZE = 96
#: Drawn this many times larger, then averaged down.
SCALE = 3
#: Outlines.
INK: Color = (44, 38, 44)


@dataclass(frozen=True)
class Backdrop:
    """What is behind everything: a soft gradient, perhaps a floor, and the light that falls on the scene.

    Attributes:
        top: color of the gradient's upper end
        bottom: color of its lower end
        light: factor on every pixel, per channel
        floor: color below `horizon`, or None
        horizon: y of the floor's edge, in pixels
    """

    top: Color
    bottom: Color
    light: tuple[float, float, float]
    floor: Color | None = None
    horizon: float = 78.0

    @classmethod
    def sample(cls, rng: np.random.Generator, with_floor: bool = False) -> Backdrop:
        """A random pale backdrop.

        Args:
            rng: what is drawn from
            with_floor: whether it has a floor
        """
        hue, saturation, value = rng.uniform(), rng.uniform(0.05, 0.22), rng.uniform(0.74, 0.92)
        floor_hue = rng.choice([0.08, 0.12, 0.27, 0.33, 0.6])
        return cls(
            top=_from_hsv(hue, saturation, value),
            bottom=_from_hsv(hue + rng.uniform(-0.06, 0.06), saturation * 0.7, min(value + 0.07, 0.97)),
            light=tuple(rng.uniform(0.86, 1.06) * rng.uniform(0.97, 1.03, 3)),
            floor=_from_hsv(floor_hue, rng.uniform(0.12, 0.3), rng.uniform(0.6, 0.8)) if with_floor else None,
            horizon=rng.uniform(72, 80),
        )


@dataclass(frozen=True)
class Rendered:
    """One image and its parts.

    Attributes:
        pixels: (96, 96, 3) uint8
        parts: (96, 96) uint8, 0 for the background, k for part k (the numbers are the scene's)
    """

    pixels: np.ndarray
    parts: np.ndarray

    def mask(self, *parts: int) -> np.ndarray:
        """Where parts of the scene are visible.

        Args:
            parts: their numbers

        Returns:
            (96, 96) uint8: 255 where one of the parts is visible, 0 elsewhere
        """
        return np.isin(self.parts, parts).astype(np.uint8) * 255


class Canvas:
    """Draws in units of final pixels; every primitive colors the image and marks the current `part`.

    Args:
        backdrop: what is behind everything
        flip: mirror everything left to right

    Attributes:
        part: number under which the next primitives are marked
        flip: mirror everything left to right
    """

    def __init__(self, backdrop: Backdrop, flip: bool = False):
        self.backdrop = backdrop
        self.flip = flip
        self.part = 0
        side = SIZE * SCALE
        self.image = Image.composite(
            Image.new("RGB", (side, side), backdrop.bottom), Image.new("RGB", (side, side), backdrop.top), _GRADIENT
        )
        self.parts = Image.new("L", (SIZE, SIZE))
        self._draw = ImageDraw.Draw(self.image)
        self._mark = ImageDraw.Draw(self.parts)
        if backdrop.floor:
            self._draw.rectangle((0, backdrop.horizon * SCALE, side, side), fill=backdrop.floor)

    def polygon(self, points: Sequence[Point], fill: Color, outline: Color | None = INK, width: float = 1.0) -> None:
        """A filled polygon.

        Args:
            points: its corners, in pixels
            fill: color inside
            outline: color of its edge; None: it has none
            width: of the edge, in pixels
        """
        points = self._place(points)
        self._draw.polygon(_scaled(points), fill=fill)
        if outline:
            self._draw.line(_scaled([*points, points[0], points[1]]), outline, _pixels(width), joint="curve")
        self._mark.polygon(points, fill=self.part, outline=self.part)

    def ellipse(
        self, center: Point, rx: float, ry: float, fill: Color | None, outline: Color | None = INK, width: float = 1.0
    ) -> None:
        """An ellipse whose axes are those of the image.

        Args:
            center: its middle, in pixels
            rx: half its width
            ry: half its height
            fill: color inside; None: what is behind stays visible
            outline: color of its edge; None: it has none
            width: of the edge, in pixels
        """
        ((x, y),) = self._place([center])
        box = (x - rx, y - ry, x + rx, y + ry)
        self._draw.ellipse([v * SCALE for v in box], fill=fill, outline=outline, width=_pixels(width))
        self._mark.ellipse(box, fill=self.part)

    def arc(self, center: Point, rx: float, ry: float, start: float, end: float, color: Color, width: float) -> None:
        """A part of an ellipse's edge.

        Args:
            center: the ellipse's middle, in pixels
            rx: half the ellipse's width
            ry: half the ellipse's height
            start: angle at which the arc begins, in degrees clockwise from the right
            end: angle at which it ends
            color: of the line
            width: of the line, in pixels
        """
        angles = np.radians(np.linspace(start, end, 12))
        self.line([(center[0] + rx * np.cos(a), center[1] + ry * np.sin(a)) for a in angles], color, width)

    def line(self, points: Sequence[Point], color: Color, width: float, outline: Color | None = None) -> None:
        """A line with round joints and ends; with an outline it is a limb.

        Args:
            points: its joints and ends, in pixels
            color: of the line
            width: of the line, in pixels
            outline: color of a border of one pixel on both sides; None: it has none
        """
        points = self._place(points)
        for ink, wide in ((outline, width + 2), (color, width)):
            if ink is None:
                continue
            self._draw.line(_scaled(points), ink, _pixels(wide), joint="curve")
            if wide >= 2:
                for x, y in (points[0], points[-1]):
                    r = wide / 2
                    self._draw.ellipse([(x - r) * SCALE, (y - r) * SCALE, (x + r) * SCALE, (y + r) * SCALE], fill=ink)
        self._mark.line(points, self.part, max(round(width + (2 if outline else 0)), 1))

    def stamp(self, layer: Image.Image, mask: Image.Image, corner: tuple[int, int]) -> None:
        """Paste an image through a mask, and mark the part.

        Args:
            layer: the image, in drawing pixels (`SCALE` for each final one)
            mask: where it is pasted, of the same size
            corner: its upper left corner in drawing pixels, multiples of `SCALE`
        """
        self.image.paste(layer, corner, mask)
        small = (corner[0] // SCALE, corner[1] // SCALE)
        self.parts.paste(self.part, small, mask.reduce(SCALE).point(_IS_HALF))

    def finish(self) -> Rendered:
        """The image in its final size, in the backdrop's light, and its parts."""
        pixels = np.asarray(self.image.reduce(SCALE), dtype=np.float32) * np.array(self.backdrop.light, np.float32)
        return Rendered(pixels.clip(0, 255).astype(np.uint8), np.asarray(self.parts))

    def _place(self, points: Sequence[Point]) -> list[Point]:
        return [(SIZE - x if self.flip else x, y) for x, y in points]


def mixed(color: Color, other: Color, share: float) -> Color:
    """A color with a share of another one in it.

    Args:
        color: the one
        other: the other
        share: of the other, 0 to 1

    >>> mixed((0, 0, 0), (255, 255, 255), 0.2)
    (51, 51, 51)
    """
    return tuple(round(a * (1 - share) + b * share) for a, b in zip(color, other, strict=True))  # type: ignore[return-value]


def rotated(points: Sequence[Point], center: Point, degrees: float) -> list[Point]:
    """Points turned around a center.

    Args:
        points: in pixels
        center: what they are turned around
        degrees: how far, clockwise as the image is seen
    """
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return [
        (center[0] + c * (x - center[0]) - s * (y - center[1]), center[1] + s * (x - center[0]) + c * (y - center[1]))
        for x, y in points
    ]


def _from_hsv(hue: float, saturation: float, value: float) -> Color:
    return tuple(round(255 * v) for v in colorsys.hsv_to_rgb(hue % 1, saturation, value))  # type: ignore[return-value]


def _scaled(points: Sequence[Point]) -> list[Point]:
    return [(x * SCALE, y * SCALE) for x, y in points]


def _pixels(width: float) -> int:
    return max(round(width * SCALE), 1)


_GRADIENT = Image.linear_gradient("L").resize((SIZE * SCALE, SIZE * SCALE))
_IS_HALF = [0] * 128 + [255] * 128
