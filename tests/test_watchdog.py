"""A test that hears no signal is red, and the tests end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

HANG = """
import ctypes, pytest

def hang():
    libc, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)
"""
"""Native code that keeps the interpreter's lock, and goes on waiting after a signal."""

IN_THE_TEST = f"{HANG}\ndef test_hangs():\n    hang()\n"
IN_THE_CLEAN_UP = f"""{HANG}
@pytest.fixture
def hanging():
    yield
    hang()

def test_hangs(hanging):
    raise ValueError("a failure takes the timers of the test back")
"""


@pytest.mark.parametrize("hanging", [IN_THE_TEST, IN_THE_CLEAN_UP], ids=["test", "clean-up"])
def test_a_hang_that_hears_no_signal_is_red(hanging: str, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "from tests import watchdog\n\npytest_plugins = ['tests.watchdog']\nwatchdog.MARGIN_S = 1\n"
    )
    (tmp_path / "test_a.py").write_text(hanging)
    arguments = ["--numprocesses=1", "--dist=loadfile", "--max-worker-restart=0", "--timeout=1"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", f"--rootdir={tmp_path}", *arguments, str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "crashed while running 'test_a.py::test_hangs'" in ended.stdout
    assert "in hang" in ended.stderr, "where"
