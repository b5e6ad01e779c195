"""Ways in which a picture can be wrong, as changes of a drawn scene; a change that does not fit a scene gives None."""

from collections.abc import Callable
from dataclasses import replace
from math import dist
from random import Random
from typing import Any

from jobs.train_mini.world import OBJECT_COLOURS, SHAPES, Scene, Thing

FREE = 0.36
"""Centres this far apart leave room for a small thing beside a large one."""
PLACES = [(x / 10, y / 10) for x in range(1, 10) for y in range(1, 10)]


def swapped_relation(scene: Scene, _rng: Random) -> Scene | None:
    """Left for right, above for below: the places are mirrored, the shapes stay upright."""
    if scene.relation is None:
        return None
    across = scene.relation in ("left", "right")
    return replace(scene, things=tuple(_mirrored(thing, across) for thing in scene.things))


def wrong_count(scene: Scene, _rng: Random) -> Scene | None:
    """One of several equal things is gone."""
    centres = scene.things[0].centres
    return _first_changed(scene, centres=centres[1:]) if len(centres) > 1 else None


def wrong_colour(scene: Scene, rng: Random) -> Scene:
    taken = {scene.ground, *(thing.colour for thing in scene.things)}
    return _first_changed(scene, colour=rng.choice([c for c in OBJECT_COLOURS if c not in taken]))


def swapped_colours(scene: Scene, _rng: Random) -> Scene | None:
    if len({thing.colour for thing in scene.things}) < 2:
        return None
    first, second = scene.things
    return replace(scene, things=(replace(first, colour=second.colour), replace(second, colour=first.colour)))


def wrong_shape(scene: Scene, rng: Random) -> Scene:
    taken = {thing.shape for thing in scene.things}
    return _first_changed(scene, shape=rng.choice([s for s in SHAPES if s not in taken]))


def missing(scene: Scene, _rng: Random) -> Scene | None:
    """One of two different things is gone."""
    return replace(scene, things=scene.things[:1]) if len(scene.things) > 1 else None


def extra(scene: Scene, rng: Random) -> Scene | None:
    """A small thing more, of any shape."""
    there = [centre for thing in scene.things for centre in thing.centres]
    free = [place for place in PLACES if all(dist(place, centre) > FREE for centre in there)]
    if not free:
        return None
    colour = rng.choice([c for c in OBJECT_COLOURS if c != scene.ground])
    thing = Thing(rng.choice(SHAPES), colour, "small", (rng.choice(free),), True, True, 1.0)
    return replace(scene, things=(*scene.things, thing))


def blank(scene: Scene, _rng: Random) -> Scene:
    return replace(scene, things=())


WRONGS: tuple[Callable[[Scene, Random], Scene | None], ...] = (
    swapped_relation,
    wrong_count,
    wrong_colour,
    swapped_colours,
    wrong_shape,
    missing,
    extra,
    blank,
)


def _first_changed(scene: Scene, **fields: Any) -> Scene:
    return replace(scene, things=(replace(scene.things[0], **fields), *scene.things[1:]))


def _mirrored(thing: Thing, across: bool) -> Thing:
    return replace(thing, centres=tuple((1 - x, y) if across else (x, 1 - y) for x, y in thing.centres))
