"""Keys and joins by Ray Data and in one process: the same tables, the same answers."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from cascade_batch.collection.regenerating.in_process import InProcess
from cascade_batch.errors import PromptTableError
from cascade_batch.pipeline.runners.ray_environment import prepare_own_cluster
from cascade_batch.pipeline.runners.runner import Tables

CARRIED = pa.fixed_shape_tensor(pa.float32(), [2, 2])


def made(length: int, number: int) -> pa.Table:
    if number < 0:
        raise PromptTableError("a bad file", where=str(number))
    tensor = pa.ExtensionArray.from_storage(
        CARRIED,
        pa.FixedSizeListArray.from_arrays(pa.array(np.full(4 * length, number, np.float32)), 4),
    )
    return pa.table({"number": pa.array([number] * length, pa.int32()), "tensor": tensor})


def keys(count: int, part: int) -> pa.Array:
    return pa.array([None, *(f"{key:064x}" for key in range(part, 10 * count, 10))])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Tables]:
    from cascade_batch.pipeline.runners.ray_data import RayRunner

    prepare_own_cluster()
    runner = RayRunner()
    yield runner.tables()
    runner.close()


@pytest.mark.parametrize("items", [[3], [2, 0, 1, 4, 7]])
def test_parts_come_in_order_with_their_types(cluster: Tables, items: list[int]) -> None:
    ours, theirs = (list(tables.mapped(partial(made, 5), items)) for tables in (InProcess(), cluster))
    assert [part["number"][0].as_py() for part in theirs] == items
    assert all(a.equals(b) and a.schema == b.schema for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("where", ["here", "cluster"])
def test_an_error_of_a_part_comes_back_as_itself(cluster: Tables, where: str) -> None:
    tables = InProcess() if where == "here" else cluster
    with pytest.raises(PromptTableError, match="a bad file"):
        list(tables.mapped(partial(made, 5), [1, -1, 2]))


def test_a_join_finds_the_same_values(cluster: Tables) -> None:
    """Some known, some not, some twice, some null; known ones spread over files, some of them in two."""
    asked = pa.chunked_array([[f"{key:064x}" for key in range(0, 900, 3)], [None, f"{5:064x}", f"{6:064x}"]])
    files = [0, 1, 2, 2]
    ours = InProcess().are_among(asked, partial(keys, 40), files)
    theirs = cluster.are_among(asked, partial(keys, 40), files)
    expected = [key is not None and int(key, 16) < 400 and int(key, 16) % 10 < 3 for key in asked.to_pylist()]
    assert ours.tolist() == expected
    assert theirs.tolist() == expected


@pytest.mark.parametrize("where", ["here", "cluster"])
def test_nothing_is_known_of_no_files(cluster: Tables, where: str) -> None:
    tables = InProcess() if where == "here" else cluster
    assert tables.are_among(pa.chunked_array([["a", "b"]]), partial(keys, 1), []).tolist() == [False, False]
