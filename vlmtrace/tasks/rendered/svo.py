"""Scenes of somebody doing something with something, in front of some scenery."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vlmtrace.tasks.rendered.canvas import INK, Backdrop, Canvas, Color, Rendered, mixed
from vlmtrace.tasks.rendered.props import draw_prop, draw_scenery
from vlmtrace.tasks.rendered.words import COLORS, OBJECTS, SCENERY, SUBJECTS, VERBS, is_held_out

ACTOR, OBJECT, SCENE = 1, 2, 3

#: What a verb decides of a picture, and the fields of `_Pose` that say it. Head and arms lean as one.
POSE_PARTS: dict[str, tuple[str, ...]] = {
    "legs": ("legs",),
    "arms": ("arms", "lean", "hands_in_front"),
    "object": ("object_at", "object_tilt", "object_behind"),
    "place": ("actor_at",),
}

_FURS: dict[str, tuple[Color, ...]] = {
    "dog": ((150, 98, 56), (190, 144, 92), (112, 76, 50)),
    "cat": ((240, 158, 66), (120, 122, 132), (226, 220, 208)),
}
_SKINS: tuple[Color, ...] = ((255, 220, 190), (236, 186, 142), (190, 132, 88), (132, 86, 56))
_CLOTHES: tuple[Color, ...] = (
    (222, 84, 142), (64, 112, 208), (66, 160, 110), (232, 150, 48), (146, 88, 186), (206, 62, 62),
)  # fmt: skip
_WHITE: Color = (252, 252, 250)


@dataclass(frozen=True)
class SvoScene:
    """Somebody does something with something; part 1 is who does it, part 2 what it is done to, part 3 the scenery.

    Attributes:
        backdrop: what is behind
        subject: who does it
        verb: what is done, as a participle
        object: what it is done to
        object_color: its color, as a word
        scenery: what stands behind
        look: number that decides clothes, fur or skin
        flip: whether the scene is mirrored
        x: where the actor stands, in pixels
        sway: shift of scenery and object, in pixels and degrees
        drawn_as: parts of the pose (see `POSE_PARTS`) that are drawn as of another verb, each with that verb
    """

    backdrop: Backdrop
    subject: str
    verb: str
    object: str
    object_color: str
    scenery: str
    look: int
    flip: bool
    x: float
    sway: float
    drawn_as: tuple[tuple[str, str], ...] = ()

    def render(self) -> Rendered:
        """Draw the scene."""
        canvas = Canvas(self.backdrop, self.flip)
        canvas.part = SCENE
        draw_scenery(canvas, self.scenery, 14 + self.sway)
        pose = self._pose()
        behind = pose.object_behind
        if behind:
            self._draw_object(canvas, pose)
        canvas.part = ACTOR
        _Actor(canvas, self, pose).draw()
        if not behind:
            self._draw_object(canvas, pose)
        if pose.hands_in_front:
            canvas.part = ACTOR
            _Actor(canvas, self, pose).draw_arms()
        return canvas.finish()

    def _pose(self) -> _Pose:
        verbs = dict.fromkeys(POSE_PARTS, self.verb) | dict(self.drawn_as)
        found = {name: getattr(_POSES[verbs[part]], name) for part, names in POSE_PARTS.items() for name in names}
        return _Pose(**found)

    def _draw_object(self, canvas: Canvas, pose: _Pose) -> None:
        canvas.part = OBJECT
        x, y = pose.object_at
        draw_prop(canvas, self.object, (self.x + x, y), COLORS[self.object_color], pose.object_tilt + self.sway)

    def with_value(self, category: str, value: str) -> SvoScene:
        """The minimal change: another subject, verb or object; all else stays.

        Args:
            category: which of them changes
            value: the new word
        """
        return replace(self, **{category: value})  # type: ignore[arg-type]

    def labels(self) -> dict[int, dict[str, str]]:
        """What is true of each part of the rendered scene: part → attribute → word."""
        return {
            ACTOR: {"thing": self.subject, "verb": self.verb},
            OBJECT: {"thing": self.object, "verb": self.verb, "color": self.object_color},
            SCENE: {"thing": self.scenery},
        }

    def is_seen(self) -> bool:
        """Whether subject × verb and verb × object occur in training."""
        return not (is_held_out(self.subject, self.verb) or is_held_out(self.verb, self.object))


def sample_scene(rng: np.random.Generator, category: str, values: tuple[str, str], held_out: bool = False) -> SvoScene:
    """A random scene of which the subject, verb or object is asked.

    Args:
        rng: what is drawn from
        category: "subject", "verb" or "object"
        values: the word that is true of it, and the word that is true of its minimal change
        held_out: allow combinations that never occur in training
    """
    while True:
        scene = SvoScene(
            backdrop=Backdrop.sample(rng, with_floor=True),
            subject=str(rng.choice(SUBJECTS)),
            verb=str(rng.choice(VERBS)),
            object=str(rng.choice(OBJECTS)),
            object_color=str(rng.choice(list(COLORS))),
            scenery=str(rng.choice(SCENERY)),
            look=int(rng.integers(12)),
            flip=bool(rng.uniform() < 0.5),
            x=rng.uniform(35, 40),
            sway=rng.uniform(-2, 2),
        )
        clean, corrupt = scene.with_value(category, values[0]), scene.with_value(category, values[1])
        if held_out or (clean.is_seen() and corrupt.is_seen()):
            return clean


@dataclass(frozen=True)
class _Pose:
    """Joints relative to (x, 0), facing right: arms from the shoulder, legs from the hip, the object's middle.

    The actor stands at x + actor_at; the object's place does not depend on it.
    """

    arms: tuple[tuple[tuple[float, float], ...], ...]
    legs: tuple[tuple[tuple[float, float], ...], ...]
    object_at: tuple[float, float]
    object_tilt: float = 0.0
    lean: float = 0.0
    object_behind: bool = False
    hands_in_front: bool = False
    actor_at: float = 0.0


_STANDING = (((-4, 79), (-5, 88)), ((4, 79), (5, 88)))

_POSES: dict[str, _Pose] = {
    "kicking": _Pose(
        arms=(((-10, 62), (-17, 56)), ((9, 64), (16, 60))),
        legs=(((-4, 79), (-6, 88)), ((10, 72), (21, 72))),
        object_at=(38, 71),
        object_tilt=24,
        lean=-4,
    ),
    "holding": _Pose(
        arms=(((6, 66), (14, 67)), ((9, 60), (17, 60))),
        legs=_STANDING,
        object_at=(23, 60),
        hands_in_front=True,
    ),
    "lifting": _Pose(
        arms=(((-13, 46), (-11, 27)), ((13, 46), (11, 27))),
        legs=(((-7, 79), (-9, 88)), ((7, 79), (9, 88))),
        object_at=(0, 16),
        hands_in_front=False,
    ),
    "pushing": _Pose(
        arms=(((14, 62), (24, 66)), ((15, 67), (24, 73))),
        legs=(((-8, 78), (-18, 88)), ((2, 80), (-5, 88))),
        object_at=(38, 74),
        lean=9,
    ),
    "watching": _Pose(
        arms=(((-11, 62), (-4, 68)), ((14, 52), (9, 39))),
        legs=(((-3, 79), (-3, 88)), ((3, 79), (3, 88))),
        object_at=(42, 74),
        lean=0,
        hands_in_front=True,
        actor_at=-8,
    ),
    "throwing": _Pose(
        arms=(((-11, 50), (-19, 44)), ((12, 46), (21, 36))),
        legs=(((-8, 78), (-13, 88)), ((8, 78), (13, 88))),
        object_at=(39, 24),
        object_tilt=-30,
        lean=3,
    ),
}


class _Actor:
    """Draws girl, boy, dog, cat or robot in a pose; all share one skeleton."""

    def __init__(self, canvas: Canvas, scene: SvoScene, pose: _Pose):
        self.canvas, self.pose, self.subject = canvas, pose, scene.subject
        self.x = scene.x + pose.actor_at
        self.head = (self.x + pose.lean * 1.3, 41.0)
        self.cloth = _CLOTHES[scene.look % len(_CLOTHES)]
        if scene.subject in _FURS:
            self.skin = _FURS[scene.subject][scene.look % 3]
            self.sleeve = self.trousers = self.skin
        elif scene.subject == "robot":
            self.skin = ((176, 184, 196), (150, 170, 190), (196, 190, 180))[scene.look % 3]
            self.sleeve = self.trousers = mixed(self.skin, INK, 0.2)
        else:
            self.skin = _SKINS[scene.look % len(_SKINS)]
            self.sleeve = self.skin if scene.subject == "girl" else self.cloth
            self.trousers = self.skin if scene.subject == "girl" else (70, 74, 104)

    def at(self, *points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(self.x + x, y) for x, y in points]

    def on_head(self, *points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(self.head[0] + x, self.head[1] + y) for x, y in points]

    def draw(self) -> None:
        if self.subject == "dog":
            self.canvas.line(self.at((-5, 70), (-14, 72), (-17, 62)), self.skin, 3.4, INK)
        elif self.subject == "cat":
            self.canvas.line(self.at((-5, 70), (-16, 74), (-18, 60), (-13, 54)), self.skin, 3.4, INK)
        for knee, foot in self.pose.legs:
            hip = (2.5 if foot[0] > 0 else -2.5, 70)
            self.canvas.line(self.at(hip, knee, foot), self.trousers, 4.4, INK)
            shoe = self.skin if self.subject in _FURS else (60, 50, 56)
            self.canvas.ellipse(self.at((foot[0] + 1.8, foot[1]))[0], 4, 2.6, shoe)
        if not self.pose.hands_in_front:
            self.draw_arms()
        self._draw_torso()
        getattr(self, f"_draw_{self.subject}_head")()

    def draw_arms(self) -> None:
        for elbow, hand in self.pose.arms:
            shoulder = (self.pose.lean + (5 if elbow[0] > 0 else -5), 55)
            self.canvas.line(self.at(shoulder, elbow, hand), self.sleeve, 3.6, INK)
            self.canvas.ellipse(self.at(hand)[0], 2.8, 2.8, self.skin)

    def _draw_torso(self) -> None:
        lean = self.pose.lean
        match self.subject:
            case "girl":
                self.canvas.polygon(self.at((lean - 5, 51), (lean + 5, 51), (12, 77), (-12, 77)), self.cloth)
                self.canvas.line(self.at((-11, 75), (11, 75)), _WHITE, 1.2)
            case "boy":
                self.canvas.polygon(self.at((lean - 7, 51), (lean + 7, 51), (6.5, 72), (-6.5, 72)), self.cloth)
                self.canvas.line(self.at((lean * 0.5 - 6.5, 61), (lean * 0.5 + 6.5, 61)), _WHITE, 2.4)
            case "robot":
                self.canvas.polygon(self.at((lean - 10, 52), (lean + 10, 52), (9, 73), (-9, 73)), self.skin)
                for dx, color in ((-4, (222, 66, 60)), (0.5, (246, 206, 60)), (5, (74, 176, 96))):
                    self.canvas.ellipse(self.at((lean * 0.6 + dx, 59))[0], 1.7, 1.7, color, None)
                self.canvas.line(self.at((lean * 0.4 - 6, 66), (lean * 0.4 + 6, 66)), INK, 1.0)
            case _:
                middle = self.at((lean * 0.5, 62))[0]
                self.canvas.ellipse(middle, 9, 12, self.skin)
                self.canvas.ellipse((middle[0] + 1.5, middle[1] + 1), 5, 7.5, mixed(self.skin, _WHITE, 0.55), None)

    def _face(self) -> None:
        for dx in (-2, 5):
            self.canvas.ellipse(self.on_head((dx, -1))[0], 1.4, 1.7, INK, None)
        self.canvas.arc(self.on_head((2, 3))[0], 3.6, 3, 20, 160, (150, 44, 52), 1.2)

    def _draw_girl_head(self) -> None:
        hair = ((88, 52, 30), (226, 178, 76), (52, 38, 34))[int(self.cloth[0]) % 3]
        self.canvas.polygon(self.on_head((-11, -6), (-15, 15), (-6, 16), (6, 16), (13, 14), (11, -6)), hair)
        self.canvas.ellipse(self.head, 10.5, 10.5, self.skin)
        fringe = [(10.8 * np.cos(a), 10.8 * np.sin(a)) for a in np.linspace(np.pi, 2 * np.pi, 12)]
        self.canvas.polygon(self.on_head(*fringe, (3, -6), (-6, -3)), hair)
        for dx in (-16, -9):
            self.canvas.ellipse(self.on_head((dx + 4, -9))[0], 3.2, 2.6, self.cloth)
        self._face()

    def _draw_boy_head(self) -> None:
        self.canvas.ellipse(self.head, 10.5, 10.5, self.skin)
        cap = [(10.8 * np.cos(a), -1 + 10.8 * np.sin(a)) for a in np.linspace(np.pi * 1.05, 1.95 * np.pi, 12)]
        self.canvas.polygon(self.on_head(*cap), self.cloth)
        self.canvas.polygon(self.on_head((2, -5), (10, -5), (17, -2.5), (9, -2.5)), mixed(self.cloth, INK, 0.3))
        self._face()

    def _draw_dog_head(self) -> None:
        self.canvas.ellipse(self.head, 10.5, 10, self.skin)
        dark = mixed(self.skin, INK, 0.45)
        self.canvas.ellipse(self.on_head((9, 3))[0], 6.5, 5, mixed(self.skin, _WHITE, 0.45))
        self.canvas.ellipse(self.on_head((13.5, 0.5))[0], 2.6, 2.2, INK, None)
        self.canvas.ellipse(self.on_head((3.5, -3))[0], 1.7, 2, INK, None)
        self.canvas.polygon(self.on_head((-9, -9), (-3, -9), (-5, 10), (-12, 11), (-13, 3)), dark)

    def _draw_cat_head(self) -> None:
        for side in (-1, 1):
            self.canvas.polygon(self.on_head((side * 10, -2), (side * 10, -16), (side * 1.5, -9)), self.skin)
            inner_ear = self.on_head((side * 8, -6), (side * 8.6, -12), (side * 4, -8.5))
            self.canvas.polygon(inner_ear, (240, 150, 160), None)
        self.canvas.ellipse(self.head, 11.5, 9.5, self.skin)
        for dx in (-3.5, 4.5):
            self.canvas.ellipse(self.on_head((dx, -1))[0], 2.2, 2.4, (146, 196, 80))
            self.canvas.line(self.on_head((dx, -2.4), (dx, 0.6)), INK, 1.0)
        self.canvas.polygon(self.on_head((-1, 2.5), (2, 2.5), (0.5, 4.5)), (226, 96, 116))
        for side in (-1, 1):
            for slope in (-1.2, 1.5):
                self.canvas.line(self.on_head((side * 4, 4), (side * 14, 4 + slope)), INK, 0.7)

    def _draw_robot_head(self) -> None:
        self.canvas.line(self.on_head((0, -10), (0, -16)), INK, 1.6)
        self.canvas.ellipse(self.on_head((0, -17))[0], 2.6, 2.6, (226, 70, 62))
        self.canvas.polygon(self.on_head((-11, -10), (11, -10), (11, 9), (-11, 9)), self.skin)
        for dx in (-4, 5):
            self.canvas.ellipse(self.on_head((dx, -2))[0], 3, 3, (250, 236, 120))
            self.canvas.ellipse(self.on_head((dx, -2))[0], 1.2, 1.2, INK, None)
        self.canvas.polygon(self.on_head((-6, 4), (7, 4), (7, 6.5), (-6, 6.5)), (70, 74, 84))
