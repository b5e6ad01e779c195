"""Ends a test process that hears no signal: a hang in native code, which the limit of a test cannot interrupt.

pytest-timeout's signal comes first, and lets the test fail and clean up. Where it is not heard, or the clean-up hangs
as well, a thread outside of Python prints all stacks and ends the process. The test is red and no more are begun:
pytest-xdist would give the whole file to another process, hang and all, again and again. Other plugins take the timer
back when a phase of a test fails, so each phase sets its own.
"""

import faulthandler
import os
from collections.abc import Generator

import pytest

MARGIN_S = 120
"""After the limit of a test."""
_stderr = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_stderr] = os.dup(2)  # which is captured while a test runs


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("timeout")
    if limit := marker.args[0] if marker else item.config.getoption("timeout"):  # 0 while somebody debugs
        faulthandler.dump_traceback_later(limit + MARGIN_S, exit=True, file=item.config.stash[_stderr])


pytest_runtest_call = pytest_runtest_teardown = pytest_runtest_setup


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
