"""Whether what a picture shows is what its prompt asked for. Strict: exactly the asked things, and nothing else.

An expectation travels as JSON in the prompt table's column `expects`:

    {"things": [{"shape": "star", "count": 2, "colour": "red", "size": "small", "area": [0.0, 0.02]}, ...],
     "relation": "above", "place": "top left", "ground": "white"}

What the prompt leaves unsaid is null. Asked things differ in shape. `relation` tells how the first stands to the
second; `place` is where a single thing stands; `area` is what `size` means for the shape, as shares of the
square of the picture's shorter side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.evaluate.checker import Seen, Thing

CLEARLY = 0.1
"""One thing is left of another if its centre is so much of the width further left; above, likewise."""
_TOWARDS = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}
_THIRDS = (1 / 3, 2 / 3)


@dataclass(frozen=True)
class Verdict:
    right: bool
    """Of the six tasks: things, counts, colours and relation. The next three are told apart from it."""
    why: str
    """What is wrong first: missing, extra, shape (both), count, colour or position; empty if right."""
    ground_right: bool | None
    """None where the prompt says nothing of it; so the next two."""
    size_right: bool | None
    place_right: bool | None


def judge(seen: Seen, expects: dict[str, Any]) -> Verdict:
    """Compare what the checker saw with an expectation."""
    asked = expects["things"]
    groups = [[thing for thing in seen.things if thing.shape == want["shape"]] for want in asked]
    why = _wrong(seen, asked, groups, expects["relation"])
    ground, place = expects["ground"], expects["place"]
    return Verdict(
        right=not why,
        why=why,
        ground_right=None if ground is None else seen.ground == ground,
        size_right=_sizes_right(asked, groups),
        place_right=None if place is None else [_place(t) for t in seen.things] == [place],
    )


def _wrong(
    seen: Seen, asked: Sequence[dict[str, Any]], groups: list[list[Thing]], relation: str | None
) -> str:
    shown, wanted = {thing.shape for thing in seen.things}, {want["shape"] for want in asked}
    if shown != wanted:
        return "extra" if shown > wanted else "missing" if shown < wanted else "shape"
    if any(len(group) != want["count"] for group, want in zip(groups, asked, strict=True)):
        return "count"
    for group, want in zip(groups, asked, strict=True):
        if want["colour"] is not None and any(thing.colour != want["colour"] for thing in group):
            return "colour"
    return "position" if relation and not _stands(groups[0], relation, groups[1]) else ""


def _stands(first: list[Thing], relation: str, second: list[Thing]) -> bool:
    """Whether every thing of the first group lies clearly in the direction, and the group mainly in it."""
    x, y = _TOWARDS[relation]
    gaps = [(a.centre[0] - b.centre[0], a.centre[1] - b.centre[1]) for a in first for b in second]
    along = [x * across + y * down for across, down in gaps]
    aside = [y * across + x * down for across, down in gaps]
    return min(along) >= CLEARLY and sum(along) > abs(sum(aside))


def _sizes_right(asked: Sequence[dict[str, Any]], groups: list[list[Thing]]) -> bool | None:
    sized = [(want["area"], group) for want, group in zip(asked, groups, strict=True) if want["area"]]
    if not sized:
        return None
    return all(group and all(low <= t.area <= high for t in group) for (low, high), group in sized)


def _place(thing: Thing) -> str:
    """In words for thirds of the picture: middle, left, ..., bottom right."""
    column = _third(thing.centre[0], ("left", "", "right"))
    row = _third(thing.centre[1], ("top", "", "bottom"))
    return " ".join(word for word in (row, column) if word) or "middle"


def _third(share: float, words: tuple[str, str, str]) -> str:
    return words[sum(share > border for border in _THIRDS)]
