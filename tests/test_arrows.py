"""Imports between the folders of the repository go one way: tests use jobs, jobs use the package.

`.importlinter` holds the arrows inside the package.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ABOVE = {"cascade_batch": {"jobs", "tests"}, "jobs": {"tests"}}
"""Folder -> those that it may not import from."""


def imported(path: Path) -> Iterator[str]:
    """The first name of every absolute import of a file, late ones included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("folder", ABOVE)
def test_nothing_imports_from_above(folder: str) -> None:
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    assert [str(path) for path in files if ABOVE[folder] & set(imported(path))] == []


def test_late_imports_are_seen(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import os.path\ndef f():\n    from tests.servers import start_moto\n")
    assert set(imported(tmp_path / "a.py")) == {"os", "tests"}
