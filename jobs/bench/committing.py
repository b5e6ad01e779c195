"""What the last step of a run costs per picture: encoding, hashing and writing, timed one by one."""

import hashlib
import io
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from cascade_batch.run import paths
from cascade_batch.run.images import encode_png
from cascade_batch.storage import Storage

PICTURES = 8


def commit_costs(storage: Storage, level: int) -> dict[str, float]:
    """CPU seconds of this process per picture, for each kind of work, with some of the run's own pictures."""
    keys = [info.key for info in storage.list(paths.IMAGES)][:PICTURES]
    files = [storage.read(key) for key in keys]
    pixels = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    scratch = [f"{paths.TABLE}scratch/{number}" for number in range(len(files))]
    costs = {
        "encoding PNGs": _cpu(lambda: [encode_png(p, level) for p in pixels]),
        "hashing": _cpu(
            lambda: [
                hashlib.sha256(d).digest()
                for p, f in zip(pixels, files, strict=True)
                for d in (p.tobytes(), f)
            ]
        ),
        "writing": _cpu(lambda: [storage.create(k, f) for k, f in zip(scratch, files, strict=True)]),
    }
    for key in scratch:
        storage.delete(key)
    return {what: seconds / len(files) for what, seconds in costs.items()}


def _cpu(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
