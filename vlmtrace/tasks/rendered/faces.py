"""Scenes of one large face with an emotion, and something beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlmtrace.tasks.rendered.canvas import INK, Backdrop, Canvas, Color, Rendered, mixed
from vlmtrace.tasks.rendered.words import COLORS, FACE_DISTRACTORS, HATS, is_held_out

PERSON, DISTRACTOR = 1, 2

_SKINS: tuple[Color, ...] = (
    (255, 222, 196), (244, 196, 160), (226, 172, 126), (196, 140, 96), (158, 104, 66), (120, 78, 50),
)  # fmt: skip
_HAIRS: tuple[Color, ...] = ((42, 32, 30), (92, 58, 36), (168, 98, 42), (226, 184, 92), (176, 176, 182), (150, 46, 36))
_CUTS = ("short", "long", "curly", "none")
_LIPS: Color = (150, 40, 48)
_MOUTH: Color = (96, 22, 30)
_WHITE: Color = (252, 252, 250)


@dataclass(frozen=True)
class FaceScene:
    """A person with an emotion, and something beside; part 1 is the person, part 2 what stands beside.

    Attributes:
        backdrop: what is behind
        emotion: which one the face shows
        hat: one of the words for hats, or for none
        skin: color of the face
        hair: color of the hair
        cut: how the hair is cut
        glasses: whether the person wears glasses
        cloth: color of the clothes
        distractor: noun of what stands beside
        distractor_color: its color, as a word
        flip: whether the scene is mirrored
        x: middle of the face, in pixels
        y: middle of the face, in pixels
        size: of the face, 1 for the usual one
    """

    backdrop: Backdrop
    emotion: str
    hat: str
    skin: Color
    hair: Color
    cut: str
    glasses: bool
    cloth: Color
    distractor: str
    distractor_color: str
    flip: bool
    x: float
    y: float
    size: float

    def render(self) -> Rendered:
        """Draw the scene."""
        canvas = Canvas(self.backdrop, self.flip)
        canvas.part = DISTRACTOR
        _draw_distractor(canvas, self)
        canvas.part = PERSON
        _draw_person(canvas, self)
        return canvas.finish()

    def with_value(self, category: str, value: str) -> FaceScene:
        """The minimal change: another emotion on the same face.

        Args:
            category: any; every category asks about the emotion
            value: the other emotion
        """
        return replace(self, emotion=value)

    def labels(self) -> dict[int, dict[str, str]]:
        """What is true of each part of the rendered scene: part → attribute → word."""
        return {
            PERSON: {"thing": "person", "emotion": self.emotion},
            DISTRACTOR: {"thing": self.distractor, "color": self.distractor_color},
        }

    def is_seen(self) -> bool:
        """Whether this emotion occurs under this hat in training."""
        return not is_held_out(self.emotion, self.hat)


def sample_scene(rng: np.random.Generator, emotions: tuple[str, str], held_out: bool = False) -> FaceScene:
    """A random face of which an emotion is asked.

    Args:
        rng: what is drawn from
        emotions: the one that it shows, and the one that its minimal change shows
        held_out: allow combinations of emotion and hat that never occur in training
    """
    while True:
        scene = FaceScene(
            backdrop=Backdrop.sample(rng),
            emotion=emotions[0],
            hat=str(rng.choice(HATS, p=[0.4, 0.15, 0.15, 0.15, 0.15])),
            skin=_SKINS[rng.integers(len(_SKINS))],
            hair=_HAIRS[rng.integers(len(_HAIRS))],
            cut=str(rng.choice(_CUTS)),
            glasses=bool(rng.uniform() < 0.25),
            cloth=COLORS[str(rng.choice(list(COLORS)))],
            distractor=str(rng.choice(FACE_DISTRACTORS)),
            distractor_color=str(rng.choice(["red", "orange", "yellow", "green", "blue", "purple", "pink"])),
            flip=bool(rng.uniform() < 0.5),
            x=rng.uniform(32, 40),
            y=rng.uniform(50, 56),
            size=rng.uniform(0.92, 1.06),
        )
        if held_out or (scene.is_seen() and replace(scene, emotion=emotions[1]).is_seen()):
            return scene


class _Pen:
    """Draws in the coordinates of the face: (0, 0) is its middle, the unit is a pixel at size 1."""

    def __init__(self, canvas: Canvas, scene: FaceScene):
        self.canvas, self.x, self.y, self.size = canvas, scene.x, scene.y, scene.size

    def at(self, *points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(self.x + x * self.size, self.y + y * self.size) for x, y in points]

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Color, outline: Color | None = INK) -> None:
        self.canvas.ellipse(self.at((x, y))[0], rx * self.size, ry * self.size, fill, outline)

    def polygon(self, points: Sequence[tuple[float, float]], fill: Color, outline: Color | None = INK) -> None:
        self.canvas.polygon(self.at(*points), fill, outline)

    def line(self, points: list[tuple[float, float]], color: Color, width: float) -> None:
        self.canvas.line(self.at(*points), color, width * self.size)

    def arc(
        self, x: float, y: float, rx: float, ry: float, start: float, end: float, color: Color, width: float
    ) -> None:
        s = self.size
        self.canvas.arc(self.at((x, y))[0], rx * s, ry * s, start, end, color, width * s)

    def both(self, points: list[tuple[float, float]], color: Color, width: float) -> None:
        """The same line on the left and, mirrored, on the right."""
        for side in (-1, 1):
            self.line([(side * x, y) for x, y in points], color, width)


def _draw_person(canvas: Canvas, scene: FaceScene) -> None:
    pen = _Pen(canvas, scene)
    if scene.cut == "long":
        pen.ellipse(0, 4, 29, 33, scene.hair)
    if scene.cut == "curly":
        for angle in np.linspace(np.pi * 0.95, np.pi * 2.05, 9):
            pen.ellipse(24 * np.cos(angle), -6 + 24 * np.sin(angle), 9, 9, scene.hair)
    pen.polygon([(-22, 60), (-19, 34), (-8, 29), (8, 29), (19, 34), (22, 60)], scene.cloth)
    pen.ellipse(-25, 2, 4.5, 6, mixed(scene.skin, INK, 0.12))
    pen.ellipse(25, 2, 4.5, 6, mixed(scene.skin, INK, 0.12))
    pen.ellipse(0, 0, 25, 30, scene.skin)
    if scene.cut in ("short", "long"):
        crown = [(25 * np.cos(a), 30.5 * np.sin(a)) for a in np.linspace(np.pi * 1.06, np.pi * 1.94, 14)]
        pen.polygon([*crown, (14, -17), (0, -20), (-14, -17)], scene.hair)
    _draw_hat(pen, scene)
    _EXPRESSIONS[scene.emotion](pen, scene)
    if scene.glasses:
        for side in (-1, 1):
            for start, end in ((0, 180), (180, 360)):
                pen.arc(side * 10, -3, 8.2, 7.8, start, end, (60, 60, 72), 1.1)
        pen.line([(-2, -4), (2, -4)], (60, 60, 72), 1.1)


def _draw_hat(pen: _Pen, scene: FaceScene) -> None:
    top = [(27 * np.cos(a), 32 * np.sin(a)) for a in np.linspace(np.pi * 1.14, np.pi * 1.86, 12)]
    color = mixed(scene.cloth, (255, 255, 255), 0.25)
    match scene.hat:
        case "cap":
            pen.polygon(top, color)
            pen.polygon([(-6, -19), (24, -19), (34, -14), (30, -12), (-4, -14)], mixed(color, INK, 0.25))
        case "beanie":
            pen.polygon(top, color)
            pen.polygon([(-25, -20), (25, -20), (24, -13.5), (-24, -13.5)], mixed(color, (255, 255, 255), 0.45))
            pen.ellipse(0, -35, 5, 5, mixed(color, (255, 255, 255), 0.45))
        case "cone":
            pen.polygon([(-15, -23), (0, -50), (15, -23)], color)
            pen.ellipse(0, -48, 3.5, 3.5, (250, 214, 70))
            pen.line([(-9, -32), (8, -28)], _WHITE, 1.6)
        case "crown":
            spikes = [(-18, -21), (-20, -38), (-10, -30), (0, -41), (10, -30), (20, -38), (18, -21)]
            pen.polygon(spikes, (248, 204, 64))
            pen.ellipse(0, -28, 2.4, 2.4, (206, 50, 60))


def _eyes(pen: _Pen, rx: float, ry: float, pupil: float, y: float = -4, look: tuple[float, float] = (0, 0)) -> None:
    for side in (-1, 1):
        pen.ellipse(side * 10, y, rx, ry, _WHITE)
        pen.ellipse(side * 10 + look[0], y + look[1], pupil, pupil, (36, 30, 36), None)


def _nose(pen: _Pen, scene: FaceScene) -> None:
    pen.arc(0, 3.5, 2.8, 3.2, 10, 170, mixed(scene.skin, INK, 0.45), 1.3)


def _brow_color(scene: FaceScene) -> Color:
    return mixed(scene.hair, INK, 0.5)


def _happy(pen: _Pen, scene: FaceScene) -> None:
    _nose(pen, scene)
    for side in (-1, 1):
        pen.ellipse(side * 16.5, 7, 4.6, 3.4, mixed(scene.skin, (236, 92, 92), 0.5), None)
        pen.arc(side * 10, -2, 5, 5.5, 190, 350, INK, 2.2)
    pen.both([(5, -13.5), (10, -15.5), (15, -13.5)], _brow_color(scene), 2.2)
    smile = [(13 * np.cos(a), 9 + 13 * np.sin(a)) for a in np.linspace(0, np.pi, 14)]
    pen.polygon(smile, _MOUTH)
    pen.polygon([(-11.5, 9.5), (11.5, 9.5), (10.3, 13), (-10.3, 13)], _WHITE, None)


def _sad(pen: _Pen, scene: FaceScene) -> None:
    _nose(pen, scene)
    _eyes(pen, 4.6, 4.2, 2.3, look=(0, 1.4))
    pen.both([(5.2, -6.4), (15.2, -4.4)], INK, 2.4)
    pen.both([(4, -15.5), (15, -9.5)], _brow_color(scene), 2.6)
    pen.arc(0, 22, 9.5, 8, 200, 340, _LIPS, 2.6)
    for y in (4, 8):
        pen.ellipse(14, y, 2.4, 3.4, (96, 170, 240), (40, 96, 170))


def _angry(pen: _Pen, scene: FaceScene) -> None:
    _nose(pen, scene)
    _eyes(pen, 4.8, 4.0, 2.2)
    pen.both([(2.5, -6.2), (16, -14.5)], _brow_color(scene), 4.2)
    pen.polygon([(-11, 11), (11, 11), (12.5, 20), (-12.5, 20)], _WHITE)
    pen.line([(-11.8, 15.5), (11.8, 15.5)], INK, 1.2)
    for x in (-7, -2.4, 2.4, 7):
        pen.line([(x, 11), (x, 20)], INK, 1.0)


def _fearful(pen: _Pen, scene: FaceScene) -> None:
    _nose(pen, scene)
    _eyes(pen, 6.4, 7.2, 1.7)
    pen.both([(4.5, -18.5), (10, -16), (15.5, -13)], _brow_color(scene), 2.2)
    wave = [(-12, 16), (-8, 12.5), (-4, 16), (0, 12.5), (4, 16), (8, 12.5), (12, 16)]
    pen.polygon([*wave, *[(x, y + 6) for x, y in reversed(wave)]], _MOUTH)
    for x, y in ((-20, -12), (21, -9)):
        pen.ellipse(x, y, 2.1, 3.4, (124, 190, 246), (40, 96, 170))


def _surprised(pen: _Pen, scene: FaceScene) -> None:
    _nose(pen, scene)
    _eyes(pen, 5.8, 6.4, 3.0)
    for side in (-1, 1):
        pen.arc(side * 10, -12.5, 6.6, 6.5, 200, 340, _brow_color(scene), 2.6)
    pen.ellipse(0, 17, 6.4, 8.6, _MOUTH)
    pen.ellipse(0, 21.5, 3.6, 3, (206, 84, 96), None)


def _disgusted(pen: _Pen, scene: FaceScene) -> None:
    pen.both([(5, -5.5), (15, -2.5)], INK, 2.2)
    pen.both([(5, -1.5), (15, -1.5)], INK, 1.6)
    pen.line([(-15.5, -9.5), (-4, -9.5)], _brow_color(scene), 3.0)
    pen.line([(4, -8), (15.5, -14.5)], _brow_color(scene), 3.0)
    for y in (1, 4.2):
        pen.line([(-3.6, y + 1.5), (0, y), (3.6, y + 1.5)], mixed(scene.skin, INK, 0.5), 1.2)
    pen.line([(-12, 16.5), (-5, 12), (3, 14), (12, 10.5)], _LIPS, 2.8)
    pen.polygon([(-3.5, 13.5), (6.5, 13.5), (7, 21), (4.5, 25), (0.5, 25), (-3, 21)], (232, 98, 118))
    pen.line([(1.8, 15), (2, 21)], (176, 56, 78), 1.0)


def _neutral(pen: _Pen, scene: FaceScene) -> None:
    _nose(pen, scene)
    _eyes(pen, 4.8, 4.4, 2.4)
    pen.both([(5, -12.5), (15, -12.5)], _brow_color(scene), 2.4)
    pen.line([(-8.5, 15), (8.5, 15)], _LIPS, 2.6)


_EXPRESSIONS = {
    "angry": _angry,
    "disgusted": _disgusted,
    "fearful": _fearful,
    "happy": _happy,
    "neutral": _neutral,
    "sad": _sad,
    "surprised": _surprised,
}


def _draw_distractor(canvas: Canvas, scene: FaceScene) -> None:
    color, x = COLORS[scene.distractor_color], 81.0
    match scene.distractor:
        case "balloon":
            canvas.line([(x, 50), (x - 3, 64), (x + 2, 78), (x - 1, 94)], (120, 110, 110), 1.0)
            canvas.polygon([(x - 3, 53), (x + 3, 53), (x, 48)], color)
            canvas.ellipse((x, 34), 12.5, 15.5, color)
            canvas.ellipse((x - 4, 28), 3, 4, mixed(color, (255, 255, 255), 0.6), None)
        case "plant":
            for dx, top in ((-9, 46), (0, 38), (9, 46), (-5, 56), (6, 56)):
                canvas.polygon([(x, 76), (x + dx - 4, top + 8), (x + dx, top), (x + dx + 3, top + 9)], (70, 150, 76))
            canvas.polygon([(x - 11, 72), (x + 11, 72), (x + 8, 92), (x - 8, 92)], color)
        case "candle":
            canvas.polygon([(x - 7, 52), (x + 7, 52), (x + 7, 88), (x - 7, 88)], color)
            canvas.line([(x - 7, 62), (x + 7, 58)], mixed(color, (255, 255, 255), 0.5), 2)
            canvas.ellipse((x, 89), 12, 3.5, (196, 190, 180))
            canvas.polygon([(x, 33), (x + 5, 44), (x, 51), (x - 5, 44)], (250, 176, 46))
        case "mushroom":
            canvas.polygon([(x - 5, 66), (x + 5, 66), (x + 7, 90), (x - 7, 90)], (240, 228, 206))
            dome = [(x + 13 * np.cos(a), 68 + 20 * np.sin(a)) for a in np.linspace(np.pi, 2 * np.pi, 14)]
            canvas.polygon(dome, color)
            for dx, y in ((-5, 60), (3, 54), (7, 63)):
                canvas.ellipse((x + dx, y), 2.4, 2.4, _WHITE, None)
