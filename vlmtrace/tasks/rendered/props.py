"""What things are done to, and the scenery."""

from __future__ import annotations

import numpy as np

from vlmtrace.tasks.rendered.canvas import INK, Canvas, Color, Point, mixed, rotated

_WHITE: Color = (255, 255, 255)


def draw_prop(canvas: Canvas, name: str, center: Point, color: Color, tilt: float) -> None:
    """Draw a ball, box, kite, cup, umbrella or guitar about 30 pixels large.

    Args:
        canvas: what is drawn on
        name: which of them
        center: its middle, in pixels
        color: its main color
        tilt: how far it is turned, in degrees clockwise
    """
    pale = mixed(color, _WHITE, 0.5) if sum(color) < 660 else (190, 190, 200)
    _PROPS[name](_Tilted(canvas, center, tilt), color, pale)


class _Tilted:
    """Draws around a center, turned by an angle."""

    def __init__(self, canvas: Canvas, center: Point, tilt: float):
        self.canvas, self.center, self.tilt = canvas, center, tilt

    def at(self, *points: Point) -> list[Point]:
        cx, cy = self.center
        return rotated([(cx + x, cy + y) for x, y in points], self.center, self.tilt)

    def polygon(self, points: list[Point], fill: Color, outline: Color | None = INK) -> None:
        self.canvas.polygon(self.at(*points), fill, outline)

    def line(self, points: list[Point], color: Color, width: float, outline: Color | None = None) -> None:
        self.canvas.line(self.at(*points), color, width, outline)

    def disc(self, x: float, y: float, r: float, fill: Color, outline: Color | None = INK) -> None:
        self.canvas.ellipse(self.at((x, y))[0], r, r, fill, outline)


def _fan(r: float, start: float, end: float, n: int = 8) -> list[Point]:
    return [(r * np.cos(a), r * np.sin(a)) for a in np.radians(np.linspace(start, end, n))]


def _ball(pen: _Tilted, color: Color, pale: Color) -> None:
    pen.disc(0, 0, 14, color)
    for start in (15, 135, 255):
        pen.polygon([(0, 0), *_fan(13.2, start, start + 60)], pale, None)
    pen.disc(0, 0, 2.6, pale)


def _box(pen: _Tilted, color: Color, pale: Color) -> None:
    pen.polygon([(-14, -7), (14, -7), (14, 14), (-14, 14)], color)
    pen.polygon([(-14, -7), (-8, -14), (15, -14), (14, -7)], pale)
    pen.polygon([(-3, -7), (3, -7), (3, 14), (-3, 14)], pale, None)


def _kite(pen: _Tilted, color: Color, pale: Color) -> None:
    pen.line([(0, 8), (-4, 12), (0, 15), (-6, 18)], INK, 1.0)
    pen.polygon([(0, -17), (13, -4), (0, 14), (-13, -4)], color)
    pen.polygon([(0, -17), (13, -4), (0, -4)], pale, None)
    pen.polygon([(0, 14), (-13, -4), (0, -4)], pale, None)
    pen.line([(0, -17), (0, 14)], INK, 0.8)
    pen.line([(-13, -4), (13, -4)], INK, 0.8)


def _cup(pen: _Tilted, color: Color, pale: Color) -> None:
    pen.line([(9, -7), (17, -6), (16, 5), (8, 6)], color, 2.6, INK)
    pen.polygon([(-12, -11), (11, -11), (8, 14), (-9, 14)], color)
    pen.polygon([(-12.5, -13.5), (11.5, -13.5), (11.5, -9.5), (-12.5, -9.5)], pale)
    pen.polygon([(-10.8, -2), (9.9, -2), (9.2, 4), (-10.2, 4)], pale, None)


def _umbrella(pen: _Tilted, color: Color, pale: Color) -> None:
    pen.line([(0, -10), (0, 13), (3, 15.5), (6, 13)], mixed(INK, (150, 100, 60), 0.6), 1.8, INK)
    dome = [(16 * np.cos(a), 1 + 16 * np.sin(a)) for a in np.linspace(np.pi, 2 * np.pi, 15)]
    scallops = [(10.5, -2.5), (5.5, 1), (0, -2.5), (-5.5, 1), (-10.5, -2.5)]
    pen.polygon([*dome, *scallops], color)
    pen.polygon([(0, -15), (5.5, 1), (0, -2.5), (-5.5, 1)], pale, None)
    pen.line([(0, -14), (0, -17)], INK, 1.4)


def _guitar(pen: _Tilted, color: Color, pale: Color) -> None:
    # Always held slantwise: upright it would be too tall for the picture.
    slanted = _Tilted(pen.canvas, pen.center, pen.tilt + 45)
    slanted.polygon([(-1.8, -18), (1.8, -18), (1.8, 2), (-1.8, 2)], (122, 84, 52))
    slanted.polygon([(-3, -20), (3, -20), (2.4, -15), (-2.4, -15)], (74, 52, 40))
    slanted.disc(0, 9.5, 8.2, color)
    slanted.disc(0, 0.5, 6, color)
    slanted.disc(0, 9.5, 7.2, color, None)
    slanted.disc(0, 4, 2.7, (56, 40, 36), None)
    slanted.line([(0, -14), (0, 12)], pale, 0.8)


_PROPS = {"ball": _ball, "box": _box, "kite": _kite, "cup": _cup, "umbrella": _umbrella, "guitar": _guitar}


def draw_scenery(canvas: Canvas, name: str, x: float) -> None:
    """Draw a tree, house, lamp or cactus that stands on the ground.

    Args:
        canvas: what is drawn on
        name: which of them
        x: its middle, in pixels
    """
    match name:
        case "tree":
            canvas.polygon([(x - 3, 60), (x + 3, 60), (x + 4, 82), (x - 4, 82)], (118, 82, 54))
            for dx, y, r in ((-6, 52, 10), (6, 51, 10), (0, 42, 11)):
                canvas.ellipse((x + dx, y), r, r, (86, 152, 90))
            for dx, y, r in ((-5, 52, 8), (5, 51, 8), (0, 43, 9)):
                canvas.ellipse((x + dx, y), r, r, (98, 166, 100), None)
        case "house":
            canvas.polygon([(x - 12, 56), (x + 13, 56), (x + 13, 82), (x - 12, 82)], (232, 214, 180))
            canvas.polygon([(x - 16, 57), (x + 0.5, 38), (x + 17, 57)], (176, 88, 70))
            canvas.polygon([(x - 8, 68), (x - 1, 68), (x - 1, 82), (x - 8, 82)], (128, 90, 62))
            canvas.polygon([(x + 3, 62), (x + 9, 62), (x + 9, 69), (x + 3, 69)], (156, 206, 232))
        case "lamp":
            canvas.line([(x, 44), (x, 82)], (84, 88, 98), 2.6, INK)
            canvas.polygon([(x - 7, 82), (x + 7, 82), (x + 4, 77), (x - 4, 77)], (84, 88, 98))
            canvas.polygon([(x - 5, 44), (x + 5, 44), (x + 8, 28), (x - 8, 28)], (254, 236, 150))
            canvas.polygon([(x - 9, 28), (x + 9, 28), (x, 21)], (84, 88, 98))
        case "cactus":
            canvas.line([(x, 48), (x, 81)], (84, 150, 96), 8, INK)
            canvas.line([(x - 2, 68), (x - 11, 66), (x - 11, 55)], (84, 150, 96), 5, INK)
            canvas.line([(x + 2, 62), (x + 11, 61), (x + 11, 50)], (84, 150, 96), 5, INK)
            canvas.ellipse((x, 43), 3.4, 3, (236, 110, 150))
