"""The quick tests: those that need neither torch nor Ray, run alone by `make check`, which is `pytest --quick`.

Their files are listed here and nowhere else. With `--quick` no other file is even imported, and a test that brings
torch or Ray in fails.
"""

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

FILES = (
    "collection/test_columns.py",
    "collection/test_delta.py",
    "model/test_weighting.py",
    "prompts/test_*.py",
    "run/test_stage_keys.py",
    "run/test_stores.py",
    "run/test_workers.py",
    "settings/test_explained.py",
    "settings/test_spec.py",
    "storage/test_urls.py",
    "storage/test_web.py",
    "test_arrows.py",
)
"""Patterns of paths below `tests`."""
HEAVY = ("torch", "ray", "transformers")

_seen: set[str] = set()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only the files that need neither torch nor Ray")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if config.option.quick and not is_quick(collection_path) else None


def is_quick(path: Path) -> bool:
    """Whether it is a quick file, or a folder with one: the `conftest` of any other may import what it likes."""
    files = path.rglob("test_*.py") if path.is_dir() else [path]
    return any(file.match(pattern) for file in files for pattern in FILES)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    new = set(HEAVY) & sys.modules.keys() - _seen
    if item.config.option.quick and new:
        _seen.update(new)  # one failure tells it
        pytest.fail(f"not a quick test: it or its file imports {', '.join(sorted(new))}", pytrace=False)
    return result
