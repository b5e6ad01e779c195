"""The plan: shards partition the images exactly within all limits, and nothing needless is read."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_batch.errors import PromptTableError
from cascade_batch.plan import cutting
from cascade_batch.plan.cutting import Limits, cut_file
from cascade_batch.plan.planning import ImageGroup, make_plan
from cascade_batch.prompts import identity
from cascade_batch.run.schemas import PLAN
from cascade_batch.run.shards import Shard
from cascade_batch.settings import PoolSpec, PoolsSpec, RenderSpec, Spec
from cascade_batch.storage import Storage
from tests.prompts.writing import opened, planned, write

prompt_lists = st.lists(st.tuples(st.integers(1, 30), st.sampled_from([10, 60, 200])), max_size=60)
limit_sets = st.builds(Limits, st.integers(1, 8), st.integers(1, 12), st.sampled_from([100, 500, 10**9]))


@settings(max_examples=300)
@given(prompt_lists, limit_sets, st.integers(1, 20))
def test_cuts_partition_the_images_within_the_limits(prompts: list, limits: Limits, window: int) -> None:
    images, size = (np.array([p[i] for p in prompts], np.int64) for i in (0, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "WINDOW", window)
        cuts = cut_file(images, size, limits)
    seen = []
    for first, rows, first_image, count in zip(
        cuts.first_row.tolist(),
        cuts.rows.tolist(),
        cuts.first_image.tolist(),
        cuts.images.tolist(),
        strict=True,
    ):
        mine = [(row, i) for row in range(first, first + rows) for i in range(images[row])]
        mine = mine[first_image : first_image + count]
        assert len(mine) == count >= 1
        assert rows <= limits.prompts
        assert count <= limits.images
        assert count == 1 or sum(size[row] for row, _ in mine) <= limits.pixel_bytes
        if rows > 1:
            assert first_image == 0
            assert count == images[first : first + rows].sum()
        seen += mine
    assert seen == [(row, i) for row in range(len(prompts)) for i in range(images[row])]


@given(prompt_lists, limit_sets)
def test_a_shard_ends_only_where_the_next_prompt_does_not_fit(prompts: list, limits: Limits) -> None:
    images, size = (np.array([p[i] for p in prompts], np.int64) for i in (0, 1))
    cuts = cut_file(images, size, limits)
    for first, rows in zip(cuts.first_row.tolist(), cuts.rows.tolist(), strict=True):
        more = slice(first, first + rows + 1)
        if more.stop <= len(prompts):
            too_big = images[more].sum() > limits.images or (images * size)[more].sum() > limits.pixel_bytes
            assert rows == limits.prompts or too_big


TABLE = {
    "prompt": ["a", "b", "c", "d", "e"],
    "num_images": pa.array([1, 300, None, 2, 1], pa.int16()),
    "width": [None, 256, 512, 512, 512],
    "decoder_guidance_scale": [None, None, None, 1.1, 1.0],
}


def test_a_plan_by_hand(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", TABLE)
    write(tmp_path, "b.parquet", {"prompt": pa.array([], pa.string())})
    write(tmp_path, "c.parquet", {"prompt": ["f"]})
    spec = Spec(
        render=RenderSpec(height=512, num_images=2, prior_guidance_scale=1.0),
        pools=PoolsSpec(c=PoolSpec(batch=4), ba=PoolSpec(batch=8)),
    )
    plan = make_plan(opened(tmp_path), spec)
    assert plan.shards.schema == PLAN
    assert [tuple(row.values()) for row in plan.shards.to_pylist()] == [
        (0, "a.parquet", 0, 0, 1, 0, 1),
        (1, "a.parquet", 0, 1, 1, 0, 256),
        (2, "a.parquet", 0, 1, 1, 256, 44),
        (3, "a.parquet", 0, 2, 3, 0, 5),
        (4, "c.parquet", 2, 0, 1, 0, 2),
    ]
    assert Shard(**plan.shards.to_pylist()[2]) == Shard(2, "a.parquet", 0, 1, 1, 256, 44)
    assert (plan.prompts, plan.images) == (6, 308)
    assert plan.groups == {
        ImageGroup(256, 512, 20, False, 10, False): 300,
        ImageGroup(512, 512, 20, False, 10, False): 3,
        ImageGroup(512, 512, 20, False, 10, True): 2,
        ImageGroup(1024, 512, 20, False, 10, False): 3,
    }
    assert plan.sizes == {(256, 512), (512, 512), (1024, 512)}
    assert plan.slots.c == 4 + 256 + 44 + 8 + 4
    assert plan.slots.ba == 8 + 256 + 48 + (8 + 8) + 8
    assert plan.padded.c == pytest.approx(1 - 308 / 316)
    assert [(load.width, load.height, load.images, load.guided, load.largest) for load in plan.loads.ba] == [
        (256, 512, 300, False, 256),
        (512, 512, 5, True, 3),
        (1024, 512, 3, False, 2),
    ]
    assert plan.loads.c[1].slots[:4] == (5, 6, 8, 8), "without guidance in pool C they share their batches"
    assert plan.loads.ba[1].slots[:4] == (5, 6, 8, 16), "in pool BA two of them are guided and apart"
    for batch, place in ((4, 2), (8, 3)):
        slots = plan.slots.c if batch == 4 else plan.slots.ba
        loads = plan.loads.c if batch == 4 else plan.loads.ba
        assert sum(load.slots[place] for load in loads) == slots


@pytest.mark.parametrize("row_group_size", [1, 2, 1000])
def test_row_groups_do_not_change_the_plan(tmp_path: Path, row_group_size: int) -> None:
    other = write(tmp_path / "other", "t.parquet", TABLE, row_group_size=row_group_size)
    usual = write(tmp_path / "usual", "t.parquet", TABLE)
    assert planned(opened(other)) == planned(opened(usual))


@pytest.mark.parametrize(("limit", "prompts", "images"), [(0, 0, 0), (2, 2, 301), (6, 6, 306), (99, 9, 609)])
def test_limit_takes_the_first_prompts(tmp_path: Path, limit: int, prompts: int, images: int) -> None:
    write(tmp_path, "a.parquet", TABLE, row_group_size=2)
    write(tmp_path, "b.parquet", {name: TABLE[name][:4] for name in ("prompt", "num_images", "width")})
    plan = planned(opened(tmp_path), limit=limit)
    assert (plan.prompts, plan.images) == (prompts, images)
    assert sum(plan.shards["images"].to_pylist()) == images


def test_pixels_limit_a_shard(tmp_path: Path) -> None:
    columns = {"prompt": ["a"] * 20, "width": [4096] * 20, "height": [4096] * 20}
    shards = planned(opened(write(tmp_path, "t.parquet", columns))).shards
    assert shards["images"].to_pylist() == [19, 1]  # 4096 x 4096 x 3 bytes x 19 = 0.96 GB


def test_an_empty_table_has_an_empty_plan(tmp_path: Path) -> None:
    columns = {"prompt": pa.array([], pa.string()), "id": pa.array([], pa.int64())}
    plan = planned(opened(write(tmp_path, "t.parquet", columns)))
    assert (plan.shards.num_rows, plan.images, plan.padded.c, plan.groups) == (0, 0, 0.0, {})


def test_planning_reads_neither_text_nor_carried_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = [np.random.default_rng(i).bytes(100_000) for i in range(40)]
    columns = {
        "prompt": [data.hex() for data in noise],
        "picture": noise,
        "width": [256] * 40,
        "id": range(40),
    }
    write(tmp_path, "t.parquet", {name: list(values) for name, values in columns.items()})
    read = []
    original = Storage.open

    class Counting(io.BufferedReader):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            read.append(len(data))
            return data

    monkeypatch.setattr(Storage, "open", lambda self, key: Counting(original(self, key)))  # type: ignore[arg-type]
    assert planned(opened(tmp_path)).images == 40
    assert 0 < sum(read) < 5_000


def test_files_without_planned_columns_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = opened(write(tmp_path, "t.parquet", {"prompt": ["a"] * 70}))
    (tmp_path / "t.parquet").unlink()
    assert planned(table).shards["rows"].to_pylist() == [64, 6]


BAD = [
    ("width", [512, 500], "use 496"),
    ("height", [512, 5000], "4096"),
    ("width", [512, -8], "256"),
    ("num_images", [1, 0], "1 to 1000000"),
    ("num_images", [None, 2_000_000], "1 to 1000000"),
    ("prior_steps", [20, 0], "1 to 1000"),
    ("decoder_steps", [20, 1001], "1 to 1000"),
    ("prior_guidance_scale", [4.0, float("nan")], "finite"),
    ("decoder_guidance_scale", [4.0, float("inf")], "finite"),
    ("prior_guidance_scale", [4.0, -1.0], "at least 0"),
    ("seed", [1, -1], "0 to"),
    ("seed", pa.array([1, 2**63], pa.uint64()), str(2**63)),
    ("id", ["a", None], "null"),
    ("id", pa.array([b"a", b"\xff"]).view(pa.string()), "UTF-8"),
    ("id", pa.nulls(2), "null"),
]


@pytest.mark.parametrize(("column", "values", "message"), BAD)
def test_bad_values_are_named_with_their_row(tmp_path: Path, column: str, values: list, message: str) -> None:
    columns = {"prompt": ["x", "x"], column: values}
    write(tmp_path, "good.parquet", {"prompt": ["x"]})
    path = write(tmp_path, "z.parquet", columns, row_group_size=1)
    with pytest.raises(PromptTableError) as error:
        planned(opened(tmp_path))
    row = 0 if isinstance(values, pa.NullArray) else 1
    assert f"{path}, row {row}" in str(error.value)
    assert message in str(error.value)


def test_duplicate_ids_are_named_over_all_files(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", {"prompt": ["x"] * 3, "id": [7, 8, 9]})
    write(tmp_path, "b.parquet", {"prompt": ["x"] * 2, "id": ["b", "7"]}, row_group_size=1)
    write(tmp_path, "c.parquet", {"prompt": ["x"] * 2, "id": pa.array(["c", "b"]).dictionary_encode()})
    with pytest.raises(PromptTableError) as error:
        planned(opened(tmp_path))
    assert "'7' at a.parquet:0, b.parquet:1; 'b' at b.parquet:0, c.parquet:1" in str(error.value)
    assert planned(opened(tmp_path), limit=4).prompts == 4


def test_a_given_id_may_not_be_the_default_id_of_another_file(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", {"prompt": ["x", "y"]})
    write(tmp_path, "b.parquet", {"prompt": ["x"], "id": ["a.parquet:1"]})
    with pytest.raises(PromptTableError, match=r"a\.parquet:1, b\.parquet:0"):
        planned(opened(tmp_path))


def test_hash_collisions_are_no_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "hash64", lambda texts: np.zeros(len(texts), np.uint64))
    write(tmp_path, "a.parquet", {"prompt": ["x"] * 9, "id": list("abcdefghi")})
    assert planned(opened(tmp_path)).prompts == 9
    write(tmp_path, "b.parquet", {"prompt": ["x"], "id": ["d"]})
    with pytest.raises(PromptTableError, match=r"'d' at a\.parquet:3, b\.parquet:0"):
        planned(opened(tmp_path))


def test_ids_are_hashed_alike_in_one_piece_and_in_many(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = pa.chunked_array([[f"id {i}" * (i % 4) for i in range(50)], [], ["x"]])
    whole = identity.hash_ids(ids)
    monkeypatch.setattr(identity, "HASHED_ROWS", 7)
    assert np.array_equal(identity.hash_ids(ids), whole)


def test_one_file_of_many_rows_is_cut_across_windows(tmp_path: Path) -> None:
    rows = cutting.WINDOW + 100_000
    prompts = pa.repeat("a", rows)
    path = write(tmp_path, "t.parquet", {"prompt": prompts, "num_images": np.arange(rows) % 5 + 1})
    shards = planned(opened(path)).shards
    assert shards["rows"].to_numpy().sum() == rows
    assert shards["rows"].to_numpy()[:-1].min() == 64
