"""No prompt table ends a process, and none is read wrong: random ones and damaged ones, in a process of their own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

INPUTS, SECONDS = 1500, 15
SEED = 20261125


def test_no_prompt_table_ends_the_process_or_is_read_wrong(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    command = [sys.executable, "-m", "tests.fuzz.tables", str(INPUTS), str(SECONDS), str(SEED), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + 120)
    assert done.returncode == 0, f"the input in hand lies in {tmp_path}\n{done.stdout}\n{done.stderr[-5000:]}"
    counted = done.stdout.strip().splitlines()[-1]
    record_property("fuzz", f"tables: {counted}")
    assert int(counted.split()[0]) >= 50, "too few to say anything"
