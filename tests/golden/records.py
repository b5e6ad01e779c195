"""What is remembered of each kind of CPU, `golden.json` and the pictures beside it, and what this machine renders.

`golden.json` holds one NUMERICS_VERSION, and for each kind of CPU the digests of what it renders in that version.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cascade_batch.model.numerics import NUMERICS_VERSION
from tests.patience import PATIENCE_S

FOLDER = Path(__file__).parent
RECORD = FOLDER / "golden.json"
WHOLE: dict[str, str] = {}
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
"""Environment that holds a newer CPU back, so that one machine stands for two kinds."""

RAISE = """\
The bits that this program renders have changed.
  next: if that was not meant, find the change; a run that was begun before it would go on in other bits.
        If it was: raise NUMERICS_VERSION in cascade_batch/model/numerics.py, say so in a bold line of CHANGELOG.md,
        then `make golden`, and commit tests/golden/ too."""
REMAKE = """\
NUMERICS_VERSION was raised, and tests/golden/ is still of the version before.
  next: `make golden`, and commit tests/golden/ too."""


@dataclass(frozen=True)
class Rendered:
    """What one process rendered."""

    kind: str
    digests: dict[str, Any]
    folder: Path
    """Its pictures."""


def render(folder: Path, environment: dict[str, str]) -> Rendered:
    """What this machine renders, in a process of its own with this added to the environment."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.golden.rendering", str(folder)]
    done = subprocess.run(
        command,
        env=os.environ | environment,
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return Rendered(**json.loads(done.stdout), folder=folder)


def complaint(record: dict[str, Any], found: Rendered) -> str | None:
    """What is wrong with bits of a kind that is recorded, None if nothing is or the kind is not."""
    if record["numerics"] != NUMERICS_VERSION:
        return REMAKE
    known = record["kinds"].get(found.kind)
    return RAISE if known is not None and known != found.digests else None


def most_levels_apart(found: Rendered) -> int:
    """The largest difference, 0 to 255, between its pictures and those in the repository."""
    paths = sorted(FOLDER.glob("*.png"))
    assert [path.name for path in paths] == sorted(path.name for path in found.folder.glob("*.png"))
    return max(int(np.abs(levels(path) - levels(found.folder / path.name)).max()) for path in paths)


def levels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def with_kind(record: dict[str, Any], found: Rendered) -> dict[str, Any]:
    """The record with this kind's digests; those of another version are dropped, nobody can make them any more."""
    kinds = record["kinds"] if record["numerics"] == NUMERICS_VERSION else {}
    return {
        "numerics": NUMERICS_VERSION,
        "kinds": dict(sorted((kinds | {found.kind: found.digests}).items())),
    }
