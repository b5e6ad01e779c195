"""The world that `mini` knows: a few flat shapes on a plain or patterned ground.

A `Scene` is drawn by `drawing.py` and put into words by `captions.py`. Places are fractions of the picture's
width and height, radii fractions of its shorter side. What a caption leaves unsaid has a rule: a size is
medium, a place the middle, a ground white or gray, a colour that of `UNSAID_COLOURS`; of two things the one
named first stands left. Where chance chose colours and sides, things came out in two colours, or the same
thing on both sides.

Some combinations never occur in training (`is_held_out`), so that the evaluation can ask for what was
never seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from zlib import crc32

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
COLOURS = {
    "red": (220, 40, 40),
    "orange": (240, 140, 30),
    "yellow": (245, 220, 50),
    "green": (40, 150, 60),
    "blue": (40, 80, 210),
    "purple": (130, 50, 170),
    "pink": (245, 150, 190),
    "brown": (120, 75, 40),
    "black": (25, 25, 25),
    "white": (245, 245, 245),
    "gray": (160, 160, 160),
}
OBJECT_COLOURS = tuple(name for name in COLOURS if name != "gray")
GROUND_TONES = {
    "white": (206, 206, 206),
    "gray": (120, 120, 120),
    "black": (62, 62, 62),
    "pink": (248, 187, 213),
    "yellow": (248, 231, 112),
    "blue": (30, 60, 158),
    "green": (32, 118, 47),
}
"""Colours of grounds, with the second tone of their patterns: as far from the first as its name allows."""
GROUND_COLOURS = tuple(GROUND_TONES)
UNSAID_GROUNDS = ("white", "gray")
UNSAID_COLOURS = {
    "circle": "blue",
    "square": "orange",
    "triangle": "purple",
    "star": "yellow",
    "cross": "green",
    "heart": "red",
}
"""On a ground of the same colour, a thing is black instead."""
PATTERNS = ("plain", "striped", "checkered", "dotted")
SIZES = {"small": 0.085, "medium": 0.125, "large": 0.165}
"""Radius."""
PLACES = {
    "middle": (0.5, 0.5),
    "left": (0.24, 0.5),
    "right": (0.76, 0.5),
    "top": (0.5, 0.24),
    "bottom": (0.5, 0.76),
    "top left": (0.24, 0.24),
    "top right": (0.76, 0.24),
    "bottom left": (0.24, 0.76),
    "bottom right": (0.76, 0.76),
}
RELATIONS = {
    "left": ((0.27, 0.5), (0.73, 0.5)),
    "right": ((0.73, 0.5), (0.27, 0.5)),
    "above": ((0.5, 0.27), (0.5, 0.73)),
    "below": ((0.5, 0.73), (0.5, 0.27)),
}
"""Places of the first and the second of two objects."""
COUNTS = {
    2: ((0.27, 0.5), (0.73, 0.5)),
    3: ((0.5, 0.27), (0.26, 0.71), (0.74, 0.71)),
    4: ((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)),
    5: ((0.21, 0.21), (0.79, 0.21), (0.5, 0.5), (0.21, 0.79), (0.79, 0.79)),
}
ROWS = {2: (0.29, 0.71), 3: (0.19, 0.5, 0.81)}
"""Horizontal places where a group shares the picture with another object."""
KINDS = {"one": 0.22, "pair": 0.48, "count": 0.22, "group": 0.08}
HELD_OUT_SHARE = 0.045


@dataclass(frozen=True)
class Thing:
    """One group of equal objects."""

    shape: str
    colour: str
    size: str
    centres: tuple[tuple[float, float], ...]
    said_colour: bool
    said_size: bool
    scale: float
    """Factor on the size's radius."""

    @property
    def radius(self) -> float:
        return SIZES[self.size] * self.scale


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]
    ground: str
    pattern: str
    said_ground: bool
    kind: str
    place: str | None = None
    """The stated place of a single object."""
    relation: str | None = None
    """How the first thing stands to the second, if stated."""
    phase: float = 0.0
    """Shift of the ground's pattern, 0..1."""


def is_held_out(*words: object) -> bool:
    """Whether a combination, such as ("red", "star") or (4, "heart"), is kept from training."""
    return crc32(" ".join(map(str, words)).encode()) % 1000 < 1000 * HELD_OUT_SHARE


def breaks_hold_out(scene: Scene) -> bool:
    """Whether a scene shows a held-out combination of colour, count or relation with shapes."""
    asked: list[tuple] = [(thing.colour, thing.shape) for thing in scene.things]
    asked += [(len(thing.centres), thing.shape) for thing in scene.things if len(thing.centres) > 1]
    if scene.relation:
        asked.append((scene.things[0].shape, scene.relation, scene.things[1].shape))
    return any(is_held_out(*words) for words in asked)


def training_scene(rng: Random) -> Scene:
    """A random scene without held-out combinations."""
    while True:
        scene = any_scene(rng)
        if not breaks_hold_out(scene):
            return scene


def any_scene(rng: Random) -> Scene:
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    said_ground = rng.random() < 0.6
    ground = rng.choice(GROUND_COLOURS if said_ground else UNSAID_GROUNDS)
    pattern = rng.choice(PATTERNS[1:]) if said_ground and rng.random() < 0.35 else "plain"
    make = {"one": _one, "pair": _pair, "count": _count, "group": _group}[kind]
    things, place, relation = make(rng, ground)
    return Scene(things, ground, pattern, said_ground, kind, place, relation, rng.random())


def _one(rng: Random, ground: str) -> tuple[tuple[Thing, ...], str | None, None]:
    place = rng.choice(list(PLACES)) if rng.random() < 0.5 else None
    centre = PLACES[place or "middle"]
    wander = 0.04 if place else 0.1
    return (_thing(rng, ground, [centre], wander),), place, None


def _pair(rng: Random, ground: str) -> tuple[tuple[Thing, ...], None, str | None]:
    relation = rng.choice(list(RELATIONS)) if rng.random() < 0.65 else None
    first, second = RELATIONS[relation or "left"]
    thing = _thing(rng, ground, [first], 0.04)
    return (thing, _unlike(thing, rng, ground, second)), None, relation


def _count(rng: Random, ground: str) -> tuple[tuple[Thing, ...], None, None]:
    return (_thing(rng, ground, COUNTS[rng.choice(list(COUNTS))], 0.03),), None, None


def _group(rng: Random, ground: str) -> tuple[tuple[Thing, ...], None, str]:
    relation = rng.choice(("above", "below"))
    high, low = (0.26, 0.74) if relation == "above" else (0.74, 0.26)
    first = _thing(rng, ground, [(x, high) for x in ROWS[rng.choice(list(ROWS))]], 0.03, ("small", "medium"))
    return (first, _unlike(first, rng, ground, (0.5, low))), None, relation


def _unlike(first: Thing, rng: Random, ground: str, place: tuple[float, float]) -> Thing:
    """One thing of another shape."""
    while True:
        thing = _thing(rng, ground, [place], 0.04)
        if thing.shape != first.shape:
            return thing


def _thing(
    rng: Random,
    ground: str,
    places: Sequence[tuple[float, float]],
    wander: float,
    sizes: Sequence[str] = tuple(SIZES),
) -> Thing:
    shape, said_colour, said_size = rng.choice(SHAPES), rng.random() < 0.8, rng.random() < 0.4
    colours = OBJECT_COLOURS if said_colour else (UNSAID_COLOURS[shape],)
    colour = rng.choice([name for name in colours if name != ground] or ["black"])
    shift = _step(rng, wander), _step(rng, wander)
    centres = tuple((x + shift[0] + _step(rng, 0.012), y + shift[1] + _step(rng, 0.012)) for x, y in places)
    return Thing(
        shape=shape,
        colour=colour,
        size=rng.choice(sizes) if said_size else "medium",
        centres=centres,
        said_colour=said_colour,
        said_size=said_size,
        scale=1 + _step(rng, 0.06),
    )


def _step(rng: Random, most: float) -> float:
    return rng.uniform(-most, most)
