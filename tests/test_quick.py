"""A test that brings torch or Ray in is no quick one, and `--quick` says so."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.quick import FILES, HEAVY

LIGHT, BY_A_TEST, BY_ITS_FILE = (
    "def test_it(): pass",
    "def test_it(): import ray",
    "import ray\ndef test_it(): pass",
)


def quick_run(folder: Path, text: str, *flags: str) -> str:
    """What pytest prints about a quick file of this text, beside one that cannot be imported."""
    (folder / "test_arrows.py").write_text(text)
    (folder / "test_slow.py").write_text("raise SystemExit")
    (folder / "ray.py").touch()
    (folder / "pytest.ini").touch()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.quick",
        "-p",
        "no:cacheprovider",
        *flags,
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    return done.stdout + done.stderr


def test_only_the_listed_files_are_run(tmp_path: Path) -> None:
    assert "1 passed" in quick_run(tmp_path, LIGHT, "--quick")
    assert "SystemExit" in quick_run(tmp_path, LIGHT)


@pytest.mark.parametrize("text", [BY_A_TEST, BY_ITS_FILE])
def test_what_imports_ray_is_refused(tmp_path: Path, text: str) -> None:
    told = quick_run(tmp_path, text, "--quick")
    assert "not a quick test: it or its file imports ray" in told
    assert "1 failed" in told


def test_every_pattern_names_a_file() -> None:
    assert [pattern for pattern in FILES if not list(Path(__file__).parent.glob(pattern))] == []
    assert "torch" in HEAVY
