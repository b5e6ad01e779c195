"""Endless scenes for each of the six tasks, each with whether it is held out.

Held out is what the caption asks for: a colour, count or relation that training never shows on these shapes.
All else it asks for has been shown.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle, islice, permutations, product
from random import Random

from jobs.train_mini.world import (
    COUNTS,
    GROUND_COLOURS,
    OBJECT_COLOURS,
    PATTERNS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    UNSAID_GROUNDS,
    Scene,
    Thing,
    is_held_out,
)

SAID_SIZE = 0.3
SAID_GROUND = 0.4
SAID_PLACE = 0.2
PATTERNED = 0.4
"""Share of the stated grounds."""
ASKED_OF_ONE = 12
"""How many prompts of a task ask for one held-out combination: with more, a table would ask for little else."""
Scenes = Iterator[tuple[bool, Scene]]


def single_objects(rng: Random) -> Scenes:
    """Half of them state nothing else, the others a ground, a place or a size."""
    stated = cycle(["", "ground", "", "place", "", "size"])
    for shape, state in zip(_shuffled_forever(list(SHAPES), rng), stated, strict=False):
        place = rng.choice(list(PLACES)) if state == "place" else None
        thing = _thing(rng, shape, None, [PLACES[place or "middle"]], 1.0 if state == "size" else 0.0)
        yield False, _scene(rng, [thing], place=place, said_ground=1.0 if state == "ground" else 0.0)


def two_objects(rng: Random) -> Scenes:
    for shapes in _shuffled_forever(list(permutations(SHAPES, 2)), rng):
        yield False, _pair(rng, shapes, (None, None), None)


def counting(rng: Random) -> Scenes:
    said_colour = cycle([True, True, False, False])
    for held_out, (count, shape) in _some_held_out(product(COUNTS, SHAPES), rng):
        colour = _seen_colour(rng, shape) if next(said_colour) else None
        # Five large things would touch.
        sizes = ("small", "medium") if count == 5 else tuple(SIZES)
        yield held_out, _scene(rng, [_thing(rng, shape, colour, COUNTS[count], sizes=sizes)])


def colors(rng: Random) -> Scenes:
    for held_out, (colour, shape) in _some_held_out(product(OBJECT_COLOURS, SHAPES), rng):
        place = rng.choice(list(PLACES)) if rng.random() < SAID_PLACE else None
        yield held_out, _scene(rng, [_thing(rng, shape, colour, [PLACES[place or "middle"]])], place=place)


def positions(rng: Random) -> Scenes:
    said_colours = cycle([True, True, False, False])
    relations = ((a, r, b) for a, r, b in product(SHAPES, RELATIONS, SHAPES) if a != b)
    for held_out, (first, relation, second) in _some_held_out(relations, rng):
        shapes = first, second
        colours = _seen_colours(rng, shapes) if next(said_colours) else (None, None)
        yield held_out, _pair(rng, shapes, colours, relation)


def attributions(rng: Random) -> Scenes:
    """Of a held-out prompt one of the two colours, the first and the second in turn, is unseen on its shape."""
    related = cycle([True, True, False, False])
    for turn, (held_out, (colour, shape)) in enumerate(_some_held_out(product(OBJECT_COLOURS, SHAPES), rng)):
        other = rng.choice([name for name in SHAPES if name != shape])
        other_colour = _seen_colour(rng, other, besides=colour)
        things = [(colour, shape), (other_colour, other)]
        colours, shapes = zip(*(things if turn // 2 % 2 else reversed(things)), strict=True)
        relation = _seen_relation(rng, shapes) if next(related) else None
        yield held_out, _pair(rng, shapes, colours, relation)


def _some_held_out(combinations: Iterable[tuple], rng: Random) -> Iterator[tuple[bool, tuple]]:
    """Seen and held-out combinations in turn, each kind shuffled, until the held-out ones have had their share."""
    kinds: dict[bool, list[tuple]] = {False: [], True: []}
    for words in combinations:
        kinds[is_held_out(*words)].append(words)
    unseen = islice(_shuffled_forever(kinds[True], rng), ASKED_OF_ONE * len(kinds[True]))
    for seen in _shuffled_forever(kinds[False], rng):
        yield False, seen
        if (words := next(unseen, None)) is not None:
            yield True, words


def _shuffled_forever(values: list, rng: Random) -> Iterator:
    while True:
        yield from rng.sample(values, len(values))


def _seen_colour(rng: Random, shape: str, besides: str = "") -> str:
    return rng.choice([c for c in OBJECT_COLOURS if c != besides and not is_held_out(c, shape)])


def _seen_colours(rng: Random, shapes: tuple[str, str]) -> tuple[str, str]:
    first = _seen_colour(rng, shapes[0])
    return first, _seen_colour(rng, shapes[1], besides=first)


def _seen_relation(rng: Random, shapes: tuple[str, str]) -> str:
    return rng.choice([name for name in RELATIONS if not is_held_out(shapes[0], name, shapes[1])])


def _pair(rng: Random, shapes: Sequence[str], colours: Sequence[str | None], relation: str | None) -> Scene:
    centres = RELATIONS[relation or rng.choice(("left", "right"))]
    things = [_thing(rng, *thing) for thing in zip(shapes, colours, ([c] for c in centres), strict=True)]
    return _scene(rng, things, relation=relation)


def _thing(
    rng: Random,
    shape: str,
    colour: str | None,
    centres: Sequence[tuple[float, float]],
    said_size: float = SAID_SIZE,
    sizes: Sequence[str] = tuple(SIZES),
) -> Thing:
    """A thing of the colour, or of any if that goes unsaid; `said_size` is a probability."""
    says_size = rng.random() < said_size
    return Thing(
        shape=shape,
        colour=colour or rng.choice(OBJECT_COLOURS),
        size=rng.choice(sizes) if says_size else "medium",
        centres=tuple(centres),
        said_colour=colour is not None,
        said_size=says_size,
        scale=1.0,
    )


def _scene(
    rng: Random,
    things: Sequence[Thing],
    place: str | None = None,
    relation: str | None = None,
    said_ground: float = SAID_GROUND,
) -> Scene:
    """The things on a ground of another colour; `said_ground` is a probability."""
    says_ground = rng.random() < said_ground
    taken = {thing.colour for thing in things}
    ground = rng.choice([g for g in (GROUND_COLOURS if says_ground else UNSAID_GROUNDS) if g not in taken])
    pattern = rng.choice(PATTERNS[1:]) if says_ground and rng.random() < PATTERNED else "plain"
    kind = "pair" if len(things) > 1 else "count" if len(things[0].centres) > 1 else "one"
    return Scene(tuple(things), ground, pattern, says_ground, kind, place, relation, rng.random())


MAKERS: dict[str, Callable[[Random], Scenes]] = {
    "single object": single_objects,
    "two objects": two_objects,
    "counting": counting,
    "colors": colors,
    "position": positions,
    "color attribution": attributions,
}
"""GenEval's name of a task -> its scenes."""
