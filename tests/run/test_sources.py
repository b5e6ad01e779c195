"""`sources.parquet`: whole shards in a row group, each read alone, the same bytes for the same rows."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_batch.errors import IntegrityError
from cascade_batch.run import paths, sources
from cascade_batch.run.schemas import SOURCES
from cascade_batch.run.sources import encode_sources, read_sources, shards_with_sources
from cascade_batch.storage import ObjectMissing, Storage


def rows_of(shard: int, images: int) -> pa.Table:
    uri = "s3://bucket/run/embeddings/shard-00000003.parquet"
    return pa.Table.from_pylist(
        [
            {
                "shard": shard,
                "image_id": f"image-{shard}-{image}",
                "stage_c_key": f"{shard:032}{image:032}",
                "embedding_uri": uri if image else None,
                "embedding_row": image,
                "embedding_sha256": "0" * 64,
            }
            for image in range(images)
        ],
        schema=SOURCES,
    )


@pytest.fixture
def stored(store: str, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(sources, "GROUP_ROWS", 10)
    storage = Storage(store)
    storage.create(paths.SOURCES, encode_sources(rows_of(shard, 3 + shard) for shard in (0, 2, 3, 5, 8)))
    return storage


def test_each_shard_is_read_alone(stored: Storage) -> None:
    assert shards_with_sources(stored) == {0, 2, 3, 5, 8}
    for shard in (0, 2, 3, 5, 8):
        assert read_sources(stored, shard).equals(rows_of(shard, 3 + shard))
    with pytest.raises(IntegrityError, match="no sources of this shard"):
        read_sources(stored, 4)


def test_row_groups_hold_whole_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "GROUP_ROWS", 10)
    (tmp_path / "x").write_bytes(encode_sources(rows_of(shard, 4) for shard in range(7)))
    groups = pq.ParquetFile(tmp_path / "x").metadata
    assert [groups.row_group(g).num_rows for g in range(groups.num_row_groups)] == [12, 12, 4]


def test_none_at_all_are_some_too(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.create(paths.SOURCES, encode_sources([]))
    assert shards_with_sources(storage) == set()
    with pytest.raises(IntegrityError):
        read_sources(storage, 0)


def test_equal_rows_are_equal_bytes() -> None:
    assert encode_sources([rows_of(1, 3)]) == encode_sources(iter([rows_of(1, 3)]))


@pytest.mark.parametrize("kept", [0, 10, 400])
def test_damage_is_told_with_what_to_do(stored: Storage, kept: int) -> None:
    stored.put(paths.SOURCES, stored.read(paths.SOURCES)[:kept])
    with pytest.raises(IntegrityError, match=f"delete {paths.SOURCES}"):
        read_sources(stored, 0)


def test_an_object_that_is_gone_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing):
        read_sources(Storage(str(tmp_path)), 0)
