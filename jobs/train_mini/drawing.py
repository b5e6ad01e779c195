"""Scenes as pixels: flat shapes with one soft pixel at their edges, from signed distances.

The picture is sampled at given places, so one function draws whole pictures and windows of them.
"""

import numpy as np

from jobs.train_mini.world import COLOURS, GROUND_TONES, Scene

PATTERN_PERIODS = 6
"""Stripes, pairs of fields or dots along the shorter side."""


def draw(scene: Scene, height: int, width: int) -> np.ndarray:
    """The picture (height, width, 3), float32 in 0..1."""
    return draw_at(
        scene, (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, width / height
    )


def draw_at(scene: Scene, ys: np.ndarray, xs: np.ndarray, aspect: float) -> np.ndarray:
    """The picture at rows `ys` and columns `xs`, fractions of the sides; `aspect` is width / height."""
    # One unit is the shorter side.
    tall, wide = max(1.0, 1 / aspect), max(1.0, aspect)
    ys, xs = ys * tall, xs * wide
    soft = ys[1] - ys[0]
    picture = _ground(scene, ys, xs, soft)
    for thing in scene.things:
        colour = rgb(thing.colour)
        for x, y in thing.centres:
            _paint(picture, thing.shape, colour, (x * wide, y * tall), thing.radius, ys, xs, soft)
    return picture


def rgb(name: str) -> np.ndarray:
    """A colour, 0..1."""
    return np.array(COLOURS[name], dtype=np.float32) / 255


def _ground(scene: Scene, ys: np.ndarray, xs: np.ndarray, soft: float) -> np.ndarray:
    colour = rgb(scene.ground)
    picture = np.broadcast_to(colour, (len(ys), len(xs), 3)).copy()
    if scene.pattern == "plain":
        return picture
    tone = np.array(GROUND_TONES[scene.ground], dtype=np.float32) / 255
    share = pattern_share(scene.pattern, scene.phase, ys, xs, soft)
    return picture + share[:, :, None] * (tone - colour)


def pattern_share(name: str, phase: float, ys: np.ndarray, xs: np.ndarray, soft: float) -> np.ndarray:
    """Share of the second tone at each place, 0..1."""
    period = 1 / PATTERN_PERIODS
    rows, columns = (np.abs((v / period + phase) % 1 - 0.5) * period for v in (ys, xs))
    if name == "striped":
        bands = _cover(rows - period / 4, soft)
        return np.broadcast_to(bands[:, None], (len(ys), len(xs))).astype(np.float32)
    if name == "checkered":
        a, b = _cover(rows - period / 4, soft)[:, None], _cover(columns - period / 4, soft)[None, :]
        return (a * b + (1 - a) * (1 - b)).astype(np.float32)
    return _cover(np.hypot(rows[:, None], columns[None, :]) - period * 0.3, soft).astype(np.float32)


def _cover(distance: np.ndarray, soft: float) -> np.ndarray:
    return np.clip(0.5 - distance / soft, 0, 1)


def _paint(
    picture: np.ndarray,
    shape: str,
    colour: np.ndarray,
    centre: tuple[float, float],
    radius: float,
    ys: np.ndarray,
    xs: np.ndarray,
    soft: float,
) -> None:
    reach = 1.35 * radius + soft
    top, bottom = np.searchsorted(ys, (centre[1] - reach, centre[1] + reach))
    left, right = np.searchsorted(xs, (centre[0] - reach, centre[0] + reach))
    y = (ys[top:bottom, None] - centre[1]) / radius
    x = (xs[None, left:right] - centre[0]) / radius
    cover = _cover(shape_distance(shape, x, y) * radius, soft)[:, :, None].astype(np.float32)
    part = picture[top:bottom, left:right]
    part += cover * (colour - part)


def shape_distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance, in radii, to a shape about the origin; negative inside, y points down."""
    if shape == "circle":
        return np.hypot(x, y) - 1
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - 0.9
    if shape == "cross":
        bar, post = np.maximum(abs(x) - 1.1, abs(y) - 0.36), np.maximum(abs(x) - 0.36, abs(y) - 1.1)
        return np.minimum(bar, post)
    return _polygon_distance(_CORNERS[shape], x, y)


def _polygon_distance(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    nearest = np.full(np.broadcast_shapes(x.shape, y.shape), np.inf)
    inside = np.zeros(nearest.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        along = np.clip(
            ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2), 0, 1
        )
        gap = np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay))
        nearest = np.minimum(nearest, gap)
        if ay != by:
            crosses = ((ay > y) != (by > y)) & (x < ax + (bx - ax) * (y - ay) / (by - ay))
            inside ^= crosses
    return np.where(inside, -nearest, nearest)


def _star() -> np.ndarray:
    turns = np.arange(10) * np.pi / 5
    reach = np.where(np.arange(10) % 2 == 0, 1.25, 0.52)
    return np.stack([reach * np.sin(turns), -reach * np.cos(turns)], axis=1)


def _triangle() -> np.ndarray:
    turns = np.arange(3) * 2 * np.pi / 3
    return np.stack([1.3 * np.sin(turns), 0.2 - 1.3 * np.cos(turns)], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x / 15.2, -(y + 2.5) / 15.2], axis=1)


_CORNERS = {"star": _star(), "triangle": _triangle(), "heart": _heart()}
