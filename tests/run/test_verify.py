"""`verify` on runs that were damaged in every way: each damage is named, and re-opening heals it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from cascade_batch.cli import main
from cascade_batch.errors import StorageError
from cascade_batch.run import parquet, paths
from cascade_batch.run.embeddings import encode_embeddings, read_embeddings
from cascade_batch.run.heartbeat import beat
from cascade_batch.run.run import open_existing
from cascade_batch.run.shards import Shard
from cascade_batch.run.verify import reopen, verify
from cascade_batch.run.verify.shards import check_shard
from cascade_batch.storage import Storage
from tests.run.damages import (
    DAMAGES,
    SHARDS,
    Damage,
    copied,
    embedding_flipped,
    flip,
    manifest_and_picture,
    picture_flipped,
    pictures,
    pictures_swapped,
    rewrite,
    rows_lost,
)
from tests.run.runs import contents, render, write_prompts


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run of one prompt a shard, two images each, and its prompt table."""
    folder = tmp_path_factory.mktemp("whole")
    texts = [f"a red circle, number {i}" for i in range(SHARDS - 1)]
    prompts = write_prompts(folder, SHARDS, prompt=[*texts, None], num_images=[2] * (SHARDS - 1) + [1])
    assert render_whole(prompts, str(folder / "run")) == 0
    return prompts, str(folder / "run")


@pytest.fixture
def run(whole: tuple[Path, str], store: str) -> str:
    """A copy of it, on a local folder and on S3."""
    return copied(whole[1], store)


@pytest.fixture
def local_run(whole: tuple[Path, str], tmp_path: Path) -> str:
    return copied(whole[1], str(tmp_path / "copy"))


def render_whole(prompts: Path, out: str) -> int:
    return render(prompts, out, "--set=shards.prompts=1")


def found(uri: str) -> set[tuple[str, str]]:
    return {(difference.kind, difference.key) for difference in verify(open_existing(uri)).differences}


def test_a_whole_run_verifies_wherever_it_was_copied(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", run]) == 0
    text = capsys.readouterr().out
    assert f"checked {2 * (SHARDS - 1)} pictures in {SHARDS} of {SHARDS} shards" in text
    assert "no differences" in text


@pytest.mark.parametrize("damage", [*DAMAGES, rows_lost])
def test_each_damage_is_named_and_nothing_else(damage: Damage, local_run: str) -> None:
    expected = damage(Storage(local_run), 3)
    result = verify(open_existing(local_run))
    assert {(d.kind, d.key) for d in result.differences} == expected
    assert result.damaged_shards == [3]


def test_all_damages_at_once_are_healed_by_reopening_and_rendering(
    run: str, whole: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    storage, expected = Storage(run), set()
    for shard, damage in enumerate(DAMAGES):
        expected |= damage(storage, shard)
    assert main(["verify", run, "--reopen"]) == 4
    lines = capsys.readouterr().out.splitlines()
    named = {(line.split()[0], line.split()[1].rstrip(":")) for line in lines if "shard-" in line}
    assert named == expected
    assert any(f"re-opened {len(DAMAGES)} shards" in line for line in lines)
    assert main(["verify", run]) == 0
    assert f"unfinished: {len(DAMAGES)} of {SHARDS} shards not done" in capsys.readouterr().out
    assert render_whole(whole[0], run) == 0
    assert main(["verify", run]) == 0
    assert contents(run) == contents(whole[1])


@pytest.mark.parametrize(("column", "values"), [
    ("shard", [4, 4]),
    ("image_index", [0, 2]),
    ("prompt_id", ["prompt 3", "prompt 4"]),
    ("image_id", ["a-0", "a-1"]),
    ("status", ["ok", "lost"]),
    ("image_uri", ["../../secret.png", "images/a.png"]),
    ("image_sha256", [None, None]),
    ("embedding_uri", [paths.embeddings_key(4)] * 2),
    ("embedding_row", [1, 0]),
    ("embedding_row", [0, 7]),
    ("embedding_sha256", ["0" * 64, "0" * 64]),
    ("prompts_sha256", ["0" * 64, "0" * 64]),
])  # fmt: skip
def test_a_manifest_that_contradicts_itself_or_the_embeddings_is_named(
    column: str, values: list, local_run: str
) -> None:
    rewrite(Storage(local_run), 3, **{column: values})
    result = verify(open_existing(local_run))
    assert {d.key for d in result.differences} <= {paths.manifest_key(3), paths.embeddings_key(3)}
    assert result.damaged_shards == [3]


def deaths(monkeypatch: pytest.MonkeyPatch, uri: str, shard: int) -> Iterator[int]:
    """Re-open again and again, each time with a process that dies one deletion later."""
    delete_once = Storage._delete_once
    for allowed in range(100):
        left = allowed

        def delete(storage: Storage, key: str) -> None:
            nonlocal left
            if not left:
                raise StorageError("the process dies here")
            left -= 1
            delete_once(storage, key)

        monkeypatch.setattr(Storage, "_delete_once", delete)
        try:
            reopen(open_existing(uri), [shard])
            return
        except StorageError:
            yield allowed
        finally:
            monkeypatch.setattr(Storage, "_delete_once", delete_once)


@pytest.mark.parametrize("damage", [pictures_swapped, embedding_flipped, manifest_and_picture])
def test_a_death_while_reopening_leaves_what_the_next_one_finishes(
    damage: Damage, local_run: str, whole: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(Storage(local_run), 3)
    undisturbed = copied(local_run, str(tmp_path / "undisturbed"))
    reopen(open_existing(undisturbed), [3])
    died = 0
    for _ in deaths(monkeypatch, local_run, 3):
        died += 1
        assert verify(open_existing(local_run)).damaged_shards == [3]
    assert died >= 2
    assert [i.key for i in Storage(local_run).list()] == [i.key for i in Storage(undisturbed).list()]
    assert found(local_run) == set()


def test_a_shard_that_was_healed_meanwhile_is_left_alone(local_run: str) -> None:
    before = contents(local_run)
    assert reopen(open_existing(local_run), [3]) == []
    assert contents(local_run) == before


def test_orphans_are_listed_and_never_deleted(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    storage = Storage(run)
    late = pictures(storage, 3)[0].replace(".png", ".0123abcd.png")
    orphans = {
        late, "images/cat.png", "images/shard-00000099/cat.png", "images/shard-00000002/deep/cat.png",
        "manifest/shard-00000099.parquet", "embeddings/shard-00000099.parquet", "embeddings/notes.txt",
    }  # fmt: skip
    for key in orphans:
        storage.put(key, b"kept")
    assert found(run) == {("orphan", key) for key in orphans}
    assert main(["verify", run, "--reopen"]) == 4
    assert "re-opened 0 shards, deleted 0 objects" in capsys.readouterr().out
    assert all(storage.read(key) == b"kept" for key in orphans)


def test_an_unfinished_run_is_right_as_far_as_it_is(
    local_run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = Storage(local_run)
    for shard in (3, 4, 5):
        storage.delete(paths.manifest_key(shard))
    storage.put(pictures(storage, 3)[0].replace("-0.png", "-0.0123abcd.png"), b"an attempt that goes on")
    storage.delete(paths.embeddings_key(4))
    assert main(["verify", local_run]) == 0
    assert f"unfinished: 3 of {SHARDS} shards not done" in capsys.readouterr().out
    embedding_flipped(storage, 5)
    assert found(local_run) == {("damaged", paths.embeddings_key(5))}
    assert reopen(open_existing(local_run), [5]) == [paths.embeddings_key(5)]
    assert found(local_run) == set()


def test_a_retry_in_progress_is_no_damage(local_run: str) -> None:
    """Its embeddings and pictures are committed before the manifest says more than that the rows failed."""
    none = [None, None]
    rewrite(
        Storage(local_run), 3, status=["failed"] * 2, error_code=["nan_output"] * 2, image_uri=none,
        image_bytes=none, image_sha256=none, pixel_sha256=none, embedding_sha256=none,
    )  # fmt: skip
    assert found(local_run) == {("orphan", key) for key in pictures(Storage(local_run), 3)}
    assert verify(open_existing(local_run)).damaged_shards == []


def test_an_image_in_two_shards_is_found_though_each_is_right_by_itself(local_run: str) -> None:
    storage = Storage(local_run)
    source, target = paths.shard_name(3), paths.shard_name(4)
    for key in pictures(storage, 4):
        storage.delete(key)
    for key in pictures(storage, 3):
        storage.put(key.replace(source, target), storage.read(key))
    for key_of in (paths.embeddings_key, paths.manifest_key):
        storage.put(key_of(4), storage.read(key_of(3)))
    uris = [key.replace(source, target) for key in pictures(storage, 3)]
    rewrite(storage, 4, shard=[4, 4], image_uri=uris, embedding_uri=[paths.embeddings_key(4)] * 2)
    result = verify(open_existing(local_run))
    assert result.counts == {"duplicate": 2}
    assert "shards [3, 4]" in str(result.differences[0])


def test_pictures_and_embeddings_of_another_run_are_read_there_and_never_deleted(
    run: str, whole: tuple[Path, str], tmp_path: Path
) -> None:
    storage, other = Storage(run), Storage(copied(whole[1], str(tmp_path / "other")))
    keys = pictures(storage, 3)
    for key in [*keys, paths.embeddings_key(3)]:
        storage.delete(key)
    embeddings = other.url(paths.embeddings_key(3))
    rewrite(storage, 3, image_uri=[other.url(key) for key in keys], embedding_uri=[embeddings] * 2)
    assert found(run) == set()
    picture_flipped(other, 3)
    embedding_flipped(other, 3)
    assert found(run) == {("damaged", other.url(keys[1])), ("damaged", embeddings)}
    assert reopen(open_existing(run), [3]) == [paths.manifest_key(3)]
    assert pictures(other, 3) == keys


def test_swapped_hashes_of_one_embedding_shard_are_found(local_run: str) -> None:
    storage = Storage(local_run)
    table = read_embeddings(storage, 3)
    hashes = pa.array(table["embedding_sha256"].to_pylist()[::-1])
    position = table.schema.get_field_index("embedding_sha256")
    table = table.set_column(position, table.schema.field(position), hashes)
    storage.put(paths.embeddings_key(3), encode_embeddings(table))
    assert found(local_run) == {("damaged", paths.embeddings_key(3))}


@pytest.mark.parametrize("key", [paths.manifest_key(3), paths.embeddings_key(3)])
def test_flipped_bits_anywhere_in_a_table_are_no_crash(key: str, local_run: str) -> None:
    """Data pages, page headers, footers and column names: read, named, or (in statistics) without effect."""
    storage, run = Storage(local_run), open_existing(local_run)
    planned = Shard(**run.shards.slice(3, 1).to_pylist()[0])
    size = len(storage.read(key))
    with ThreadPoolExecutor(1) as readers:
        for position in range(0, size, size // 40):
            flip(storage, key, position)
            differences = check_shard(run, planned, True, True, readers).differences
            assert {difference.key for difference in differences} <= {key}
            flip(storage, key, position)
        assert not check_shard(run, planned, True, True, readers).differences


def test_nothing_is_reopened_under_a_living_driver(
    local_run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    picture_flipped(Storage(local_run), 3)
    beat(Storage(local_run), "another", "node-7")
    before = contents(local_run)
    assert main(["verify", local_run, "--reopen"]) == 2
    assert "a driver on node-7 was alive" in capsys.readouterr().err
    assert contents(local_run) == before
    assert main(["verify", local_run]) == 4  # looking is always allowed


def test_a_plan_that_is_not_the_runs_is_a_difference(
    local_run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = open_existing(local_run).shards
    Storage(local_run).put(paths.PLAN, parquet.to_bytes(shards.slice(0, 5)))
    assert main(["verify", local_run]) == 4
    assert "the plan is not the one the run was begun with" in capsys.readouterr().err


def test_only_the_first_differences_are_printed(local_run: str, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(25):
        Storage(local_run).put(f"images/{number}.png", b"")
    assert main(["verify", local_run]) == 4
    text = capsys.readouterr().out
    assert text.count("no shard of the plan has it") == 20
    assert "... and 5 more" in text
    assert "differences: 25 orphan" in text
