"""One collection of four editions, rendered once; tests work on copies of it."""

import pytest

from cascade_batch.collection.place import Collection
from tests.collection.making import FIRST, FOURTH, SECOND, THIRD, copied, make


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
