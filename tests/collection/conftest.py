"""Collections that are rendered once; tests work on copies of them."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cascade_batch.collection.place import Collection
from tests.collection.making import FIRST, FOURTH, SECOND, THIRD, copied, make
from tests.collection.regenerations import regenerate, write_table

if TYPE_CHECKING:
    from tests.run.remembered import Asked

TABLE = {
    "id": [f"prompt {i}" for i in range(6)],
    "prompt": [f"a red circle, number {i}" for i in range(6)],
    "seed": list(range(6)),
    "category": ["even", "odd"] * 3,
}
"""Of the first edition of `night`."""


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make(str(tmp_path_factory.mktemp("made") / "collection"), FIRST, SECOND, THIRD, FOURTH).uri


@pytest.fixture
def collection(made: str, tmp_path) -> Collection:
    return copied(made, str(tmp_path / "collection"))


@pytest.fixture
def stored(made: str, store: str) -> Collection:
    """On a local folder and on S3."""
    return copied(made, store)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> "Asked":
    """What the networks are asked for by this test."""
    from tests.run.remembered import remember  # torch: not for quick tests

    return remember(monkeypatch)


@pytest.fixture(scope="session")
def first_night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a collection whose only edition is of `TABLE`."""
    from tests.run.remembered import remember  # torch, too

    folder = tmp_path_factory.mktemp("night")
    with pytest.MonkeyPatch.context() as patch:
        remember(patch)
        assert regenerate(write_table(folder, TABLE), str(folder / "collection")) == 0
    return folder


@pytest.fixture
def night(first_night: Path, tmp_path: Path) -> str:
    """A copy of it; its prompt table is `tmp_path / "prompts.parquet"`."""
    shutil.copytree(first_night / "collection", tmp_path / "collection")
    shutil.copy2(first_night / "prompts.parquet", tmp_path)
    return str(tmp_path / "collection")
