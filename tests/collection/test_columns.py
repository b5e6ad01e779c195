"""Looking values up in columns, whichever side the hash table is made of."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cascade_batch.collection import columns
from cascade_batch.collection.columns import is_among, places, taken
from cascade_batch.collection.delta.table import DeltaTableAt
from cascade_batch.collection.regenerating import in_process
from cascade_batch.collection.regenerating.in_process import InProcess
from cascade_batch.collection.regenerating.known import Known
from cascade_batch.collection.schemas import KNOWN
from cascade_batch.run.paths import RUN
from cascade_batch.run.stage_keys import _as_json
from cascade_batch.storage import Storage


def texts(rng: np.random.Generator, count: int, of: int) -> pa.ChunkedArray:
    """Texts, nulls among them and most of them twice, in two chunks."""
    values = [None if n == 0 else f"text {n}" for n in rng.integers(0, of, count).tolist()]
    return pa.chunked_array([values[: count // 3], values[count // 3 :]], pa.string())


@pytest.mark.parametrize("many", [7, 10**6])
@pytest.mark.parametrize(("asked", "among"), [(0, 50), (3, 0), (5, 200), (200, 5), (60, 60), (1, 400)])
def test_places_are_the_first_of_equal_ones(
    asked: int, among: int, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "MANY", many)
    rng = np.random.default_rng(asked)
    values, column = texts(rng, asked, 40), texts(rng, among, 60)
    there = column.to_pylist()
    expected = [there.index(v) if v is not None and v in there else -1 for v in values.to_pylist()]
    assert places(values, column).tolist() == expected
    assert is_among(values, column).tolist() == [place >= 0 for place in expected]


def test_taking_everything_in_order_copies_nothing() -> None:
    column = pa.chunked_array([["a", None], ["b"]])
    assert taken(column, np.arange(3)) is column


@pytest.mark.parametrize("many", [2, 10**6])
def test_values_are_taken_from_columns_of_any_size(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MANY", many)
    for values in (["a", None, "b"], [1, None, 2]):
        found = taken(pa.chunked_array([values[:2], values[2:]]), np.array([2, -1, 0, 1, 2]))
        assert found.to_pylist() == [values[2], None, values[0], None, values[2]]
        assert found.type == pa.array(values).type


@pytest.mark.parametrize("rows_at_once", [1, 5, 1000])
def test_what_is_known_is_found_in_any_file(
    rows_at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two pictures of one key the first, also across files; files of others are not read."""
    monkeypatch.setattr(in_process, "ROWS_AT_ONCE", rows_at_once)
    table = DeltaTableAt.create(Storage(str(tmp_path)), "known", KNOWN, {})
    keys = [["a", "b"], ["c", None], ["a", "d"]]
    for version, some in enumerate(keys):
        rows = {name: pa.nulls(len(some), KNOWN.field(name).type) for name in KNOWN.names}
        rows |= {
            "stage_ba_key": some,
            "run": [str(tmp_path)] * 2,
            "image_uri": [f"{version} {k}" for k in some],
        }
        table.append(pa.table(rows, schema=KNOWN), after=version, metadata={}, token=str(version))
    (tmp_path / RUN).write_bytes(b"{}")
    found = Known(table.storage, table, table.version(), InProcess()).found(
        pa.chunked_array([["d", None, "b"], ["x", "c", "d"]])
    )
    uris = found.rows(["image_uri"])["image_uri"].to_pylist()
    assert [uri and uri[2:] for uri in uris] == ["d", None, "b", None, "c", "d"]
    assert found.rows(["image_uri"], slice(3, 4))["image_uri"].to_pylist() == [None]
    assert found.rows(["image_uri"], np.array([2, 4]))["image_uri"].to_pylist() == [uris[2], uris[4]]


@pytest.mark.parametrize(
    "value", ["", 'é\0\ud7ff"\\/\n', "🦊", 0, -7, 2**63 - 1, 1.0, -0.0, 1e300, True, None]
)
def test_values_in_keys_are_json(value: object) -> None:
    assert _as_json(value) == json.dumps(value)
