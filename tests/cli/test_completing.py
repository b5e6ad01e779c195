"""A real bash, set up as its user would, completes the program's commands, flags and keys."""

import os
import subprocess
import sys
from pathlib import Path

from cascade_batch.settings.explained import setting_keys
from tests.patience import PATIENCE_S

BASH = """
eval "$(register-python-argcomplete cascade-batch)"
while IFS= read -r COMP_LINE; do
    COMP_POINT=${#COMP_LINE} COMP_TYPE=9 COMP_KEY=9 COMPREPLY=()
    _python_argcomplete cascade-batch
    (IFS='|'; echo "${COMPREPLY[*]}")
done
"""


def completed(*lines: str) -> list[list[str]]:
    """What bash offers behind each line."""
    beside = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH],
        input="\n".join(lines) + "\n",
        env=os.environ | beside,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return [answer.split("|") for answer in done.stdout.splitlines()]


def test_commands_flags_and_keys_are_completed() -> None:
    commands, command, flags, runners, key, joined, keys = completed(
        "cascade-batch ",
        "cascade-batch ren",
        "cascade-batch render p.parquet --c-",
        "cascade-batch render --runner ",
        "cascade-batch plan p.parquet --set sampler.pre",
        "cascade-batch plan p.parquet --set=sampler.pre",
        "cascade-batch render --set ",
    )
    assert {"render", "plan", "status", "verify", "model", "settings"} <= set(commands)
    assert command == ["render "]
    assert flags == ["--c-actors", "--c-gpus"]
    assert runners == ["ray", "local"]
    assert key == joined == ["sampler.preset="]
    assert keys == [f"{name}=" for name in setting_keys()]
