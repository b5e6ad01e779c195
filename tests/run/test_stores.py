"""What each store of a run keeps: pictures, embeddings, manifests and small records, on disk and on S3."""

import hashlib
import io
import time

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cascade_batch.errors import IntegrityError
from cascade_batch.run import manifest, parquet, paths
from cascade_batch.run.embeddings import (
    committed_embeddings,
    embedding_arrays,
    embedding_column,
    embedding_sha256,
    encode_embeddings,
    read_embeddings,
)
from cascade_batch.run.heartbeat import FRESH_S, beat, other_driver
from cascade_batch.run.images import commit_image, encode_png, is_single_colour
from cascade_batch.run.manifest import committed_shards, read_manifest, read_manifests, write_table
from cascade_batch.run.records import (
    check_numerics,
    create_json,
    encode,
    read_json,
)
from cascade_batch.run.schemas import FORMAT, MANIFEST, embedding_schema, manifest_schema
from cascade_batch.storage import ObjectExists, ObjectMissing, Storage


def noise(seed: int, height: int = 8, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def manifest_rows(shard: int, count: int) -> pa.Table:
    rows = [{"image_id": f"{shard}-{i}", "shard": shard, "status": "ok"} for i in range(count)]
    return pa.Table.from_pylist(rows, schema=MANIFEST)


def write_manifests(storage: Storage, shards: dict[int, int]) -> None:
    for shard, count in shards.items():
        storage.create(paths.manifest_key(shard), parquet.to_bytes(manifest_rows(shard, count)))


@pytest.mark.parametrize("level", [0, 1, 6, 12])
@pytest.mark.parametrize(("height", "width"), [(8, 16), (1, 1), (1, 40), (40, 1), (257, 99)])
def test_a_png_gives_back_its_pixels_and_the_same_bytes_each_time(
    height: int, width: int, level: int
) -> None:
    """Read by two decoders: pillow, and libpng as OpenCV brings it."""
    pixels = noise(1, height, width)
    png = encode_png(pixels, level)
    assert encode_png(pixels.copy(), level) == png
    assert (np.asarray(Image.open(io.BytesIO(png))) == pixels).all()
    assert (cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB) == pixels).all()


def test_a_png_of_smooth_pixels_is_smaller_than_pillows() -> None:
    ramp = np.add.outer(np.arange(256), np.arange(256))[:, :, None] // [2, 3, 5]
    pixels = ((ramp + noise(1, 256, 256) // 64) % 256).astype(np.uint8)
    usual = io.BytesIO()
    Image.fromarray(pixels).save(usual, "PNG")
    assert len(encode_png(pixels, 6)) < len(usual.getvalue())


def test_png_bytes_stay_as_they_are() -> None:
    """On every machine with the pinned versions: another hash here needs a line in CHANGELOG.md."""
    png = encode_png(noise(1, 64, 64) // 16, 6)
    assert (
        hashlib.sha256(png).hexdigest() == "55b679f807fb9f4ad8cb2d2b4a7d936178fe72482d45bcb265bdc2e14dd891d7"
    )


def test_single_colour_means_every_pixel() -> None:
    pixels = np.full((8, 8, 3), (10, 20, 30), np.uint8)
    assert is_single_colour(pixels)
    pixels[7, 7, 2] += 1
    assert not is_single_colour(pixels)


def test_a_late_attempt_with_other_pixels_is_written_beside_the_first(store: str) -> None:
    storage = Storage(store)
    first = commit_image(storage, 7, "cat-0", noise(1), 6)
    assert first.uri == "images/shard-00000007/cat-0.png"
    assert commit_image(storage, 7, "cat-0", noise(1), 6) == first
    late = commit_image(storage, 7, "cat-0", noise(2), 6)
    assert late.uri == f"images/shard-00000007/cat-0.{late.sha256[:8]}.png"
    assert commit_image(storage, 7, "cat-0", noise(2), 6) == late
    assert len(storage.list(paths.IMAGES)) == 2
    for file, seed in ((first, 1), (late, 2)):
        data = storage.read(file.uri)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.bytes, file.sha256)
        assert file.pixel_sha256 == hashlib.sha256(noise(seed).tobytes()).hexdigest()


def embeddings_of(
    arrays: list[np.ndarray | None], size: tuple[int, int] | None, run_format: int = FORMAT
) -> pa.Table:
    schema = embedding_schema(size, run_format)
    heights, widths = ([None if a is None else a.shape[axis] for a in arrays] for axis in (1, 2))
    given = {
        "image_id": [f"cat-{i}" for i in range(len(arrays))],
        "embedding": embedding_column(arrays, schema),
        "height": heights,
        "width": widths,
        "embedding_sha256": [None if a is None else embedding_sha256(a) for a in arrays],
    }
    none = [None] * len(arrays)
    return pa.table({name: given.get(name, none) for name in schema.names}, schema=schema)


@pytest.mark.parametrize("size", [(24, 24), None])
def test_embeddings_come_back_bit_for_bit_with_gaps_for_failed_rows(
    size: tuple[int, int] | None, store: str
) -> None:
    random = np.random.default_rng(5)
    shapes = [(16, *(size or (6, 9))), None, (16, *(size or (24, 24)))]
    arrays = [None if s is None else random.standard_normal(s, np.float32) for s in shapes]
    storage = Storage(store)
    assert committed_embeddings(storage) == set()
    storage.create(paths.embeddings_key(3), encode_embeddings(embeddings_of(arrays, size)))
    assert committed_embeddings(storage) == {3}
    table = read_embeddings(storage, 3)
    assert table.schema == embedding_schema(size)
    for array, stored, sha256 in zip(arrays, embedding_arrays(table), table["embedding_sha256"], strict=True):
        if array is None:
            assert stored is None
        else:
            assert stored is not None
            assert (stored == array).all()
            assert sha256.as_py() == hashlib.sha256(array.tobytes()).hexdigest()


@pytest.mark.parametrize(("run_format", "gap"), [(2, "null"), (3, "NaN")])
def test_failed_rows_in_runs_of_one_size(run_format: int, gap: str) -> None:
    array = np.arange(16 * 24 * 24, dtype=np.float32).reshape(16, 24, 24)
    table = pq.read_table(io.BytesIO(encode_embeddings(embeddings_of([None, array], (24, 24), run_format))))
    column = table["embedding"].combine_chunks()
    storage = column.storage if run_format == 2 else column
    assert column.null_count == (1 if gap == "null" else 0)
    assert (storage[1].values.to_numpy() == array.ravel()).all()
    assert gap == "null" or np.isnan(storage[0].values.to_numpy()).all()
    missing, stored = embedding_arrays(table)
    assert missing is None
    assert stored is not None
    assert (stored == array).all()


def test_only_whole_shard_names_count_as_committed(store: str) -> None:
    storage = Storage(store)
    write_manifests(storage, {0: 1, 123_456_789: 1})
    for key in ("manifest/shard-1.parquet", "manifest/shard-00000002.parquet.bak", "manifest/notes"):
        storage.put(key, b"")
    assert committed_shards(storage) == {0, 123_456_789}


def test_shards_are_found_by_name_wherever_their_numbers_lie(store: str) -> None:
    storage = Storage(store)
    there = {0, 999, 1000, 99_999_999, 100_000_000, 123_456_789}
    for shard in there:
        storage.put(paths.manifest_key(shard), b"")
    for among in (there, {999}, {1000, 1001}, {123_456_000, 123_456_789}, {99_999_998, 99_999_999, 5}, set()):
        assert committed_shards(storage, among) & among == there & among
    assert committed_embeddings(storage, there) == set()


def test_a_store_that_lists_by_prefix_is_asked_for_no_more(moto_root: str) -> None:
    storage = Storage(moto_root)
    for shard in (0, 999, 1000, 2000):
        storage.put(paths.manifest_key(shard), b"")
    assert committed_shards(storage, {1001}) == {1000}


def test_manifests_come_in_the_order_asked_for(store: str) -> None:
    storage = Storage(store)
    write_manifests(storage, {0: 1, 1: 2, 2: 3})
    read = list(read_manifests(storage, [2, 0, 1]))
    assert [(shard, table.num_rows) for shard, table in read] == [(2, 3), (0, 1), (1, 2)]
    with pytest.raises(ObjectMissing):
        list(read_manifests(storage, [0, 9]))


def test_a_damaged_table_is_named_with_its_key(store: str) -> None:
    storage = Storage(store)
    write_manifests(storage, {4: 2})
    whole = storage.read(paths.manifest_key(4))
    for damaged in (b"", b"PAR1", whole[:-1], whole[: len(whole) // 2]):
        storage.put(paths.manifest_key(4), damaged)
        with pytest.raises(IntegrityError, match=r"manifest/shard-00000004\.parquet"):
            read_manifest(storage, 4)


def test_the_derived_table_holds_every_row_in_shard_order(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "_ROWS_PER_PART", 4)
    storage = Storage(store)
    write_manifests(storage, {0: 3, 1: 3, 2: 3})
    assert write_table(storage, {2, 0, 1}, manifest_schema(pa.schema([]))) == 0
    keys = [info.key for info in storage.list(paths.TABLE)]
    assert keys == ["table/part-00000.parquet", "table/part-00001.parquet"]
    parts = [parquet.from_bytes(storage.read(key), key) for key in keys]
    assert [part.num_rows for part in parts] == [6, 3]
    shards = pa.concat_tables(parts)["shard"].to_pylist()
    assert shards == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_the_first_record_stands(store: str) -> None:
    storage = Storage(store)
    assert read_json(storage, paths.WEIGHTS) is None
    assert create_json(storage, paths.WEIGHTS, {"stage_c": "a"}) == {"stage_c": "a"}
    assert create_json(storage, paths.WEIGHTS, {"stage_c": "b"}) == {"stage_c": "a"}
    storage.put(paths.WEIGHTS, b"{ not json")
    with pytest.raises(IntegrityError, match=r"weights\.json"):
        read_json(storage, paths.WEIGHTS)


def test_a_manifest_is_never_overwritten(store: str) -> None:
    storage = Storage(store)
    write_manifests(storage, {0: 1})
    with pytest.raises(ObjectExists):
        write_manifests(storage, {0: 2})
    assert read_manifest(storage, 0).num_rows == 1


def test_numerics_are_fixed_per_device_kind_at_first_use(store: str) -> None:
    storage = Storage(store)
    check_numerics(storage, "NVIDIA H100 80GB", {"c": {"batch": 8}, "ba": {"batch": 4}})
    check_numerics(storage, "NVIDIA H100 80GB", {"ba": {"batch": 4}, "c": {"batch": 8}})
    check_numerics(storage, "cpu", {"c": {"batch": 2}, "ba": {"batch": 4}})
    with pytest.raises(IntegrityError) as failure:
        check_numerics(storage, "NVIDIA H100 80GB", {"c": {"batch": 8}, "ba": {"batch": 5}})
    assert failure.value.where == "numerics/NVIDIA-H100-80GB.json: ba"
    assert [info.key for info in storage.list()] == ["numerics/NVIDIA-H100-80GB.json", "numerics/cpu.json"]


def test_a_living_driver_is_seen_by_others_only(store: str) -> None:
    storage = Storage(store)
    assert other_driver(storage, "mine") is None
    beat(storage, "mine", "node-1")
    assert other_driver(storage, "mine") is None
    found = other_driver(storage, "another")
    assert found is not None
    assert found[0] == "node-1"
    beat(storage, "mine", "node-1", stopped=True)
    assert other_driver(storage, "another") is None
    silent = {
        "token": "mine",
        "host": "node-1",
        "stopped": False,
        "time": time.time() - FRESH_S - 1,
    }
    storage.put(paths.DRIVER, encode(silent))
    assert other_driver(storage, "another") is None
