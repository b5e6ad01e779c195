"""Renders a few fixed prompts with each embedded model, and says with what kind of CPU.

    python -m tests.golden.rendering FOLDER

writes the middle of each picture to FOLDER/MODEL-N.png, and prints the kind and the digests as JSON. A process of its
own: one thread, one batch, and nothing that another test has switched.
"""

import hashlib
import json
import os
import platform
import sys
from pathlib import Path

import numpy as np
import torch

from cascade_batch.api import Cascade
from cascade_batch.engine.devices import fix_numerics
from cascade_batch.run.embeddings import embedding_sha256

SIDES = {"tiny": 256, "mini": 384}
"""Model -> side of its pictures in pixels."""
MIDDLE = 128
"""Side in pixels of what is kept of one."""
PROMPTS = ["a red circle", "three small blue squares above a large yellow star on a pink background"]
STEPS = {"prior": 4, "decoder": 2}
TOLD = ("vendor_id", "cpu family", "model", "model name")
"""Lines of /proc/cpuinfo that choose kernels: MKL goes by the maker, oneDNN and torch by the instructions."""
CAPS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")


def kind() -> str:
    """All that decides bits besides us: the CPU, its caches (which cut sums), what is held back of it, and torch."""
    caps = [f"{name}={os.environ[name]}" for name in CAPS if name in os.environ]
    capability = torch.backends.cpu.get_cpu_capability()
    return ", ".join([*_processor(), capability, *caps, f"torch {torch.__version__}"])


def _processor() -> list[str]:
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return [platform.machine(), platform.processor()]
    lines = dict(line.split(":", 1) for line in first.splitlines() if ":" in line)
    told = {name.strip(): value.strip() for name, value in lines.items()}
    caches = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    sizes = "/".join(path.read_text().strip() for path in caches)
    return [platform.machine(), *(f"{name} {told[name]}" for name in TOLD if name in told), f"caches {sizes}"]


def rendered(name: str, folder: Path) -> dict[str, list[str]]:
    """sha256 of each picture's pixels and each embedding; the middle of each picture goes into the folder."""
    model, side = Cascade.load(name, device="cpu", dtype="float32"), SIDES[name]
    prior = model.prior(
        PROMPTS, height=side, width=side, num_inference_steps=STEPS["prior"], seed=[1, 2], output_type="pt"
    )
    images = model.decode(
        prior.image_embeddings,
        PROMPTS,
        num_inference_steps=STEPS["decoder"],
        height=side,
        width=side,
        seed=[1, 2],
    ).images
    for number, image in enumerate(images):
        edge = (side - MIDDLE) // 2
        image.crop((edge, edge, side - edge, side - edge)).save(
            folder / f"{name}-{number}.png", optimize=True
        )
    return {
        "embeddings": [embedding_sha256(one.numpy()) for one in prior.image_embeddings],
        "pixels": [hashlib.sha256(np.asarray(image).tobytes()).hexdigest() for image in images],
    }


def main(folder: Path) -> None:
    fix_numerics(threads=1)
    digests = {name: rendered(name, folder) for name in SIDES}
    print(json.dumps({"kind": kind(), "digests": digests}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
