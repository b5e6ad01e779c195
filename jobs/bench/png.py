"""What a PNG costs: seconds and bytes of one picture, by encoder and setting.

Run:  python -m jobs.bench.png RUN [--pictures 24] [--turns 1] [--out FILE]

The pictures are those of RUN (`make demo` leaves one in demo/), and as many that have a photograph's statistics: noise
whose power falls with the square of the frequency, three correlated channels, a little of a sensor's grain. One thread;
seconds are the median over pictures of the best of the turns. Every file is read back, and must hold the same pixels.
Encoders that are not installed are left out: `pip install imagecodecs zlib-ng isal fpng-py`.
"""

import argparse
import io
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cascade_batch.run import images
from cascade_batch.run.images import encode_png

Encode = Callable[[np.ndarray], bytes]
SIDE = 1024
HEAD = "| pictures | encoder | seconds | MB | of pillow's bytes |\n|---|---|---|---|---|"
USUAL = "pillow, level 6"


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    cv2.setNumThreads(1)
    stored = sorted(options.run.rglob("images/**/*.png"))[: options.pictures]
    kinds = {
        "rendered": [np.asarray(Image.open(path)) for path in stored],
        "photograph-like": [photograph(seed) for seed in range(options.pictures)],
    }
    rows, encoders = [], dict(_encoders())
    print(HEAD)
    for kind, pictures in kinds.items():
        measured = {name: _measured(encode, pictures, options.turns) for name, encode in encoders.items()}
        usual = measured[USUAL][1]
        for name, (seconds, size) in measured.items():
            rows.append({"pictures": kind, "encoder": name, "seconds": seconds, "bytes": size})
            print(f"| {kind} | {name} | {seconds:.3f} | {size / 1e6:.2f} | {size / usual:.2f} |", flush=True)
    if options.out:
        pq.write_table(pa.Table.from_pylist(rows), options.out)
    return 0


def photograph(seed: int) -> np.ndarray:
    """(1024, 1024, 3) uint8: natural images have a power spectrum near 1 / f^2 (Field 1987)."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
    frequency[0, 0] = 1 / SIDE
    layers = [np.fft.irfft2(np.fft.rfft2(random.normal(size=(SIDE, SIDE))) / frequency) for _ in range(4)]
    light, *tints = [layer / layer.std() for layer in layers]
    colours = np.stack([0.5 + 0.18 * light + 0.05 * tint for tint in tints], axis=-1)
    grain = random.normal(scale=0.5, size=colours.shape)
    return np.clip(colours * 255 + grain, 0, 255).round().astype(np.uint8)


def _encoders() -> Iterator[tuple[str, Encode]]:
    for level in range(1, 10):
        yield f"pillow, level {level}", partial(_pillow, compress_level=level)
    yield "pillow, level 6, runs only", partial(_pillow, compress_level=6, compress_type=3)
    yield "opencv, as it comes", partial(_opencv, settings=())
    for name, level in itertools.product(("SUB", "AVG", "PAETH"), (3, 6)):
        which = getattr(cv2, f"IMWRITE_PNG_FILTER_{name}")
        settings = (cv2.IMWRITE_PNG_COMPRESSION, level, cv2.IMWRITE_PNG_FILTER, which)
        yield f"opencv, level {level}, filter {name.lower()}", partial(_opencv, settings=settings)
    for level in (1, 4, 6, 8):
        yield f"ours: libdeflate, level {level}", partial(encode_png, level=level)
    yield from _others()


def _others() -> Iterator[tuple[str, Encode]]:
    """Encoders of other packages, and other packages' zlib in the place of our libdeflate."""
    if found := _package("imagecodecs"):
        yield "imagecodecs: libspng, level 6", partial(found.spng_encode, level=6)
    if found := _package("fpng_py"):
        yield "fpng", partial(_fpng, encode=found.fpng_encode_image_to_memory)
    for name, package in (("zlib-ng", "zlib_ng.zlib_ng"), ("ISA-L", "isal.isal_zlib")):
        for level in (1, 3, 6) if name == "zlib-ng" else (1, 3):
            if found := _package(package):
                yield f"{name}, level {level}", partial(_packed, compress=found.compress, level=level)


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None


def _pillow(pixels: np.ndarray, **settings: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **settings)
    return buffer.getvalue()


def _opencv(pixels: np.ndarray, settings: tuple[int, ...]) -> bytes:
    return cv2.imencode(".png", pixels[:, :, ::-1], settings)[1].tobytes()


def _fpng(pixels: np.ndarray, encode: Callable[[bytes, int, int], bytes]) -> bytes:
    return encode(pixels.tobytes(), SIDE, SIDE)


def _packed(pixels: np.ndarray, compress: Callable[[bytes, int], bytes], level: int) -> bytes:
    """Our PNG, packed by another zlib."""
    with patch.object(images.deflate, "zlib_compress", compress):
        return encode_png(pixels, level)


def _measured(encode: Encode, pictures: list[np.ndarray], turns: int) -> tuple[float, int]:
    """Seconds of a picture, the median of the best turns, and its bytes, the mean; every file is read back."""
    best, files = [np.inf] * len(pictures), [b""] * len(pictures)
    for _ in range(turns):
        for index, pixels in enumerate(pictures):
            start = time.perf_counter()
            files[index] = encode(pixels)
            best[index] = min(best[index], time.perf_counter() - start)
    for file, pixels in zip(files, pictures, strict=True):
        assert (np.asarray(Image.open(io.BytesIO(file))) == pixels).all(), "the pixels changed"
    return float(np.median(best)), round(statistics.mean(map(len, files)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.bench.png", description="Time PNG encoders.")
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table as Parquet")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
