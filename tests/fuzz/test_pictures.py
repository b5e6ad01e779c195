"""No file ends the process that reads it or takes forever, and none that is sound is read wrong."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

INPUTS, SEED, SECONDS = 6_000, 1, 280
"""Some 6 s on an idle core; longer than the last is taken for an input that never ends."""


def test_pictures(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    progress, told = tmp_path / "number", tmp_path / "stderr"
    command = [sys.executable, "-m", "tests.fuzz.pictures", str(INPUTS), str(SEED), "", str(progress)]
    with told.open("wb") as errors:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, timeout=SECONDS, check=False)
    last = progress.read_text() if progress.exists() else "none"
    assert done.returncode == 0, f"exit {done.returncode} at input {last}: {told.read_text()[-3000:]}"
    found = json.loads(done.stdout)
    assert found["raised"] == []
    assert found["wrong"] == []
    assert found["read"] + found["refused"] == INPUTS
    assert found["files"] > 150  # of each format and mode that Pillow writes
    assert min(found["read"], found["refused"]) > INPUTS // 4  # damage that tells, and does not tell all
    record_property("fuzz", f"pictures: {INPUTS} inputs, 0 crashes, 0 silent wrong values")
