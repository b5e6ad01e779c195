"""What a picture shows: its ground's colour, and every thing on it with shape, colour, centre and area.

Made for flat shapes on a plain or low-contrast ground, and ignorant of what was asked and of how the picture was
made. In four steps: the ground is what looks like the border; other pixels get the name of their colour;
regions too thin to be anything, such as the blended colours along an edge, go to their neighbours; each
connected region that is left is a thing. A thing that looks like no shape is found all the same, as shape None.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
from PIL import Image
from scipy import ndimage

from jobs.evaluate.colours import NAMES, nearest, to_lab
from jobs.evaluate.shapes import shape_of

SIDE = 256
"""Pictures are looked at with this shorter side, in pixels; the measures below are in such pixels."""
BORDER = 0.06
"""Width of the border, as a share of the sides."""
SAME_GROUND = 14.0
"""CIELAB distance from the ground's tones up to which a pixel is ground."""
SAME_PATTERN = 24.0
"""CIELAB distance up to which a second colour of the border is a tone of the ground."""
MIN_TONE = 0.02
"""Share of the border that makes a second tone."""
CORE = 5
"""A region without a square of so many pixels is an edge or a speck, no thing."""
MIN_AREA = 0.001
"""Share of the picture below which a region is a speck."""
WAISTS = (0.15, 0.3, 0.45, 0.6, 0.75)
"""Where shapes touch, the region is thinner than these shares of its thickest place."""
_GROUND = -1


@dataclass(frozen=True)
class Thing:
    shape: str | None
    """A name of `shapes.ideals`, None if it looks like none of them."""
    colour: str
    centre: tuple[float, float]
    """Centre of mass (x, y), shares of width and height from the top left."""
    area: float
    """Share of the square of the picture's shorter side."""
    wobble: float
    """Mean distance of its outline from the nearest ideal's, in square roots of its area."""


@dataclass(frozen=True)
class Seen:
    ground: str
    things: tuple[Thing, ...]


def look(picture: np.ndarray) -> Seen:
    """What a picture (height, width, 3) uint8 shows; things from top to bottom."""
    lab = to_lab(_reduced(picture))
    tones = _ground_tones(lab)
    is_ground = _distance_to_segment(lab, *tones) < SAME_GROUND
    labels = _without_edges(np.where(is_ground, _GROUND, nearest(lab)))
    things = [
        thing
        for label in np.unique(labels[labels != _GROUND])
        for part in _parts(labels == label)
        if (thing := _thing(part, lab)).area >= MIN_AREA
    ]
    name = NAMES[nearest((tones[0] + tones[1]) / 2)]
    return Seen(name, tuple(sorted(things, key=lambda thing: thing.centre[::-1])))


def _reduced(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    scale = SIDE / min(height, width)
    size = round(width * scale), round(height * scale)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def _ground_tones(lab: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The border's usual colour, and its second tone; twice the same if the border has only one.

    Things may reach into the border, but are less of it than half, so a median is ground.
    """
    height, width = lab.shape[:2]
    inner = np.zeros((height, width), dtype=bool)
    y, x = round(height * BORDER), round(width * BORDER)
    inner[y:-y, x:-x] = True
    border = lab[~inner]
    near = border[_distance_to_segment(border, *2 * [np.median(border, axis=0)]) < SAME_GROUND / 2]
    usual = near.mean(axis=0) if len(near) else np.median(border, axis=0)
    away = np.linalg.norm(border - usual, axis=-1)
    other = border[(away > SAME_GROUND / 2) & (away < SAME_PATTERN)]
    return usual, (other.mean(axis=0) if len(other) > MIN_TONE * len(border) else usual)


def _distance_to_segment(lab: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """CIELAB distance of (..., 3) to the nearest mixture of two colours."""
    way = end - start
    along = np.clip((lab - start) @ way / max(way @ way, 1e-6), 0, 1)
    return np.linalg.norm(lab - start - along[..., None] * way, axis=-1)


def _without_edges(labels: np.ndarray) -> np.ndarray:
    """Labels (height, width) in which every region holds a `CORE` square; the rest is given to the nearest one."""
    is_core = ndimage.minimum_filter(labels, CORE) == ndimage.maximum_filter(labels, CORE)
    kept = np.zeros(labels.shape, dtype=bool)
    for label in np.unique(labels[is_core]):
        regions, _ = _connected(labels == label)
        with_core = np.unique(regions[is_core & (labels == label)])
        kept |= np.isin(regions, with_core)
    if not kept.any():
        return np.full_like(labels, _GROUND)
    return labels[_nearest(kept)]


def _parts(mask: np.ndarray) -> list[np.ndarray]:
    """The things of one colour: connected regions, taken apart where shapes touch."""
    regions, count = _connected(mask)
    parts = []
    for number in range(1, count + 1):
        region = regions == number
        parts += [region] if shape_of(region)[0] else _taken_apart(region) or [region]
    return parts


def _taken_apart(region: np.ndarray) -> list[np.ndarray] | None:
    """The region cut at its waists, if then every part is a shape."""
    depth = np.asarray(ndimage.distance_transform_edt(region))
    for waist in WAISTS:
        cores, count = _connected(depth > waist * depth.max())
        if count < 2:
            continue
        owner = np.where(region, cores[_nearest(cores > 0)], 0)
        parts = [owner == number for number in range(1, count + 1)]
        if all(shape_of(part)[0] for part in parts):
            return parts
    return None


def _thing(mask: np.ndarray, lab: np.ndarray) -> Thing:
    shape, wobble = shape_of(mask)
    height, width = mask.shape
    ys, xs = np.nonzero(mask)
    return Thing(
        shape=shape,
        colour=NAMES[nearest(np.median(lab[mask], axis=0))],
        centre=(float(xs.mean() + 0.5) / width, float(ys.mean() + 0.5) / height),
        area=len(ys) / min(height, width) ** 2,
        wobble=wobble,
    )


def _connected(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Regions numbered from 1 in an integer array, and how many there are; pixels touch by their sides."""
    return cast(tuple[np.ndarray, int], ndimage.label(mask))


def _nearest(mask: np.ndarray) -> tuple[np.ndarray, ...]:
    """For every pixel the index of the nearest one of the mask."""
    found = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return tuple(cast(np.ndarray, found))
