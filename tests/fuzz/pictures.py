"""Damaged pictures of every format, read one after the other in a process of their own, because a decoder may end it.

    python -m tests.fuzz.pictures INPUTS SEED      # a line of JSON: what was found
    python -m tests.fuzz.pictures N+1 SEED N       # input N alone, with its traceback

Each input is made from its number alone, so a crash can be made again.
"""

import faulthandler
import json
import os
import random
import sys
import traceback
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import numpy as np
from PIL import Image

from cascade_batch.engine import pictures
from cascade_batch.errors import PictureError
from tests.engine.pictures.scenes import PNG, encoded, exif_jpeg, grey_scene, png, png_chunk, scene
from tests.fuzz.rare_formats import BEGINNINGS, rare_files

MOST_PIXELS = 2**18
"""Larger ones are refused, so that an input costs a millisecond."""
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "I;16B", "F")
DEEP = {
    "I": grey_scene() * np.int32(257),
    "I;16": grey_scene() * np.uint16(257),
    "I;16B": (grey_scene() * np.uint16(257)).astype(">u2"),
    "F": grey_scene() / np.float32(255),
}
LOSSY = {
    "JPEG": 4,
    "MPO": 4,
    "WEBP": 12,
    "AVIF": 12,
    "GIF": 9,
    "BLP": 12,
    "JPEG2000": 3,
    "LAB": 5,
    "YCbCr": 3,
    "HSV": 3,
}
"""Mean levels that a format or mode may lose."""
Truth = np.ndarray | None
"""(H, W, 3) that a file shows, where it is known."""


def in_mode(mode: str) -> tuple[Image.Image, np.ndarray]:
    """The scene in a mode, and what it shows there."""
    colours, grey = Image.fromarray(scene()), Image.fromarray(grey_scene())
    shades = np.repeat(grey_scene()[..., None], 3, axis=-1)
    if mode in DEEP:
        return Image.fromarray(DEEP[mode]), shades
    if mode in ("L", "LA"):
        return grey.convert(mode), shades
    if mode in ("1", "P", "PA"):
        made = colours.convert(mode) if mode == "1" else colours.quantize(64).convert(mode)
        return made, np.asarray(made.convert("RGB"))
    return colours.convert(mode), scene()


def corpus() -> list[tuple[str, bytes, Truth]]:
    """(what it is, file, what it shows), in every format and mode that Pillow writes and we read."""
    Image.init()
    found: list[tuple[str, bytes, Truth]] = []
    for kind in sorted(Image.SAVE):
        for mode in MODES:
            try:
                image, shows = in_mode(mode)
                data = encoded(image, kind)
                kept = pictures.decode(data)
                shape = np.asarray(pictures.as_rgb(kept)).shape
            except Exception:  # noqa: BLE001  not a mode of this format, or one of which it keeps nothing
                continue
            is_known = shape == shows.shape and (kept.mode in DEEP) == (
                mode in DEEP
            )  # some formats make it another
            found.append((f"{kind} {mode}", data, shows if is_known else None))
    found += rare_files()
    found += [("notes", data, scene()) for data, _, _ in with_notes()]
    return found


@cache
def with_notes() -> list[tuple[bytes, int, int]]:
    """(file, begin, end): files, and where notes stand in them that say nothing about pixels."""
    exif, image = Image.Exif(), Image.fromarray(scene())
    exif[0x0112], exif[0x010E], exif[0x8769] = 1, "a scene", {0x9003: "2024:02:13 10:00:00", 0x829A: 0.01}
    texts = (
        (b"tEXt", b"note\0text"),
        (b"zTXt", b"note\0\0" + zlib.compress(b"text" * 99)),
        (b"iCCP", b"p\0\0x"),
    )
    raw, sharp = exif.tobytes().removeprefix(b"Exif\0\0"), {"quality": 95, "subsampling": 0}
    files = [
        (encoded(image, "JPEG", exif=exif, **sharp), raw),
        (encoded(image, "PNG", exif=exif), raw),
        (encoded(image, "WEBP", exif=exif, lossless=True), raw),
        (encoded(image, "JPEG", comment=b"a scene" * 9, **sharp), b"a scene" * 9),
        *((png(scene(), 8, 2, png_chunk(name, text)), text) for name, text in texts),
    ]
    several = encoded(image, "MPO", save_all=True, append_images=[image], **sharp)
    begin = several.index(b"MPF\0") + 4
    return [
        (several, begin, begin + 80),
        *((data, (at := data.index(note)), at + len(note)) for data, note in files),
    ]


def truncated(data: bytes, rng: random.Random, _other: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def flipped(data: bytes, rng: random.Random, _other: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        damaged[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def overwritten(data: bytes, rng: random.Random, _other: bytes) -> bytes:
    """With numbers that sizes, counts and offsets must not be."""
    at, width = _place(data, rng), rng.choice((1, 2, 4))
    value = rng.choice((0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)) % 2 ** (
        8 * width
    )
    return data[:at] + value.to_bytes(width, rng.choice(("big", "little"))) + data[at + width :]


def spliced(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """With a piece of another file in it, or a piece of its own again, or one less."""
    at, source = _place(data, rng), rng.choice((data, other))
    start = rng.randrange(len(source))
    piece = source[start : start + rng.choice((4, 12, 100, 4000))]
    return data[:at] + rng.choice((piece, b"")) + data[at + rng.choice((0, len(piece))) :]


def _place(data: bytes, rng: random.Random) -> int:
    """Headers are where damage tells."""
    return rng.randrange(min(len(data), rng.choice((64, 512, len(data)))))


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks' checksums are right again, so that what is in them is read."""
    made, start = [PNG], len(PNG)
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        made.append(png_chunk(data[start + 4 : start + 8], data[start + 8 : max(start + 8, end - 4)]))
        start = end
    return b"".join(made)


def wrong_exif(rng: random.Random) -> tuple[bytes, Truth]:
    """A sound JPEG with an EXIF entry of any type, count and value: its picture is known."""
    tag = rng.choice(
        (0x0100, 0x010E, 0x0112, 0x011A, 0x0132, 0x8769, 0x8825, 0x9286, 0xA005, rng.randrange(2**16))
    )
    count = rng.choice((0, 1, 2, 4, 5, 2**16, 2**31, 2**32 - 1))
    return exif_jpeg(tag, rng.randrange(20), count, rng.randbytes(4), orientation=False), scene()


def wrong_notes(rng: random.Random) -> tuple[bytes, Truth]:
    """A sound picture behind damaged notes."""
    data, begin, end = rng.choice(with_notes())
    damage = rng.choice((flipped, overwritten))
    made = data[:begin] + damage(data[begin:end], rng, b"")[: end - begin] + data[end:]
    return with_checksums(made) if made.startswith(PNG) and rng.random() < 0.7 else made, scene()


DAMAGES = (truncated, flipped, flipped, overwritten, overwritten, spliced)


def make(number: int, seed: int, files: list[tuple[str, bytes, Truth]]) -> tuple[str, bytes, Truth]:
    """Input `number`: the files as they are, then each damaged in turn."""
    if number < len(files):
        return files[number]
    rng = random.Random(f"{seed} {number}")
    if number % 8 == 0:
        return "EXIF", *wrong_exif(rng)
    if number % 8 == 4:
        return "notes", *wrong_notes(rng)
    if number % 16 == 1:
        return "beginning", rng.choice(BEGINNINGS) + rng.randbytes(rng.choice((20, 200, 5000))), None
    name, data, _ = files[number % len(files)]
    damage: Callable[..., bytes] = rng.choice(DAMAGES)
    data = damage(data, rng, rng.choice(files)[1])
    if data.startswith(PNG) and rng.random() < 0.7:
        data = with_checksums(data)
    return f"{name} {damage.__name__}", data, None


def judged(name: str, data: bytes, truth: Truth) -> str:
    """read, refused, or what is wrong."""
    try:
        with pictures.refusing():
            shown = pictures.as_rgb(pictures.decode(data, MOST_PIXELS))
    except PictureError as error:
        return "refused" if truth is None else f"{name}: sound, but refused: {error}"
    with suppress(PictureError), pictures.refusing():
        pictures.as_mask(pictures.decode(data, MOST_PIXELS))  # is none, and may be refused as one
    if shown.mode != "RGB" or shown.width * shown.height > MOST_PIXELS:
        return f"{name}: a picture of {shown.mode} {shown.size}"
    if truth is not None and (lost := _lost(np.asarray(shown), truth)) > _may_lose(name):
        return f"{name}: {lost:.1f} levels from the truth"
    return "read"


def _lost(got: np.ndarray, truth: np.ndarray) -> float:
    """Mean levels, whichever way is up."""
    ways = [np.rot90(made, turns) for turns in range(4) for made in (truth, truth[:, ::-1])]
    return min(float(np.abs(got.astype(int) - way).mean()) for way in ways if way.shape == got.shape)


def _may_lose(name: str) -> float:
    return sum(LOSSY.get(word, 0) for word in name.split()) or (
        4 if name.startswith(("EXIF", "notes")) else 1
    )


def main(inputs: int, seed: int, only: int | None = None, progress: str = "") -> None:
    faulthandler.enable()
    warnings.simplefilter("ignore")
    files, found = corpus(), {"read": 0, "refused": 0, "raised": [], "wrong": []}
    noted = os.open(progress or os.devnull, os.O_WRONLY | os.O_CREAT)
    for number in range(inputs) if only is None else [only]:
        os.pwrite(noted, b"%8d" % number, 0)
        name, data, truth = make(number, seed, files)
        try:
            verdict = judged(name, data, truth)
        except Exception:  # noqa: BLE001  anything but PictureError is what is looked for
            found["raised"].append(f"{number} {name}: {traceback.format_exc(limit=-3)}")
            continue
        if verdict in ("read", "refused"):
            found[verdict] += 1
        else:
            found["wrong"].append(f"{number} {verdict}")
    print(json.dumps({"inputs": inputs, "files": len(files), **found}), flush=True)


if __name__ == "__main__":
    count, chosen, *rest = sys.argv[1:]
    main(
        int(count), int(chosen), int(rest[0]) if rest and rest[0] else None, rest[1] if len(rest) > 1 else ""
    )
