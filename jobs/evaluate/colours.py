"""Colour names by distance in CIELAB, in which equal distances look about equally different.

The palette is the checker's own: typical values of eleven names, not those of any generator.
"""

import numpy as np

PALETTE = {
    "red": (215, 35, 40),
    "orange": (240, 140, 35),
    "yellow": (245, 220, 60),
    "green": (45, 150, 60),
    "blue": (40, 80, 205),
    "purple": (130, 50, 165),
    "pink": (245, 155, 190),
    "brown": (120, 75, 45),
    "black": (25, 25, 25),
    "white": (245, 245, 245),
    "gray": (150, 150, 150),
}
NAMES = tuple(PALETTE)
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
"""From linear sRGB (IEC 61966-2-1)."""
_WHITE = np.array([0.95047, 1.0, 1.08883])
"""D65."""


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB (..., 3) in 0..255 to CIELAB (..., 3): lightness 0..100, then green to red and blue to yellow."""
    share = np.asarray(rgb, dtype=np.float32) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    xyz = linear @ (_TO_XYZ / _WHITE[:, None]).T.astype(np.float32)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def nearest(lab: np.ndarray) -> np.ndarray:
    """Index in `NAMES` of the palette's nearest colour, for CIELAB (..., 3)."""
    palette = to_lab(np.array(list(PALETTE.values())))
    return np.argmin((palette**2).sum(-1) - 2 * lab @ palette.T, axis=-1)
