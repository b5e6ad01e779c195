"""`collection verify` names each damage of what an edition refers to, and `--repair` makes it good."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from cascade_batch.cli import main
from cascade_batch.collection.care.marks import mark_sets
from cascade_batch.collection.care.repairing import Repair, repair
from cascade_batch.collection.care.verifying import EditionCheck, Verifier
from cascade_batch.collection.editions import REPAIRED, editions_of
from cascade_batch.collection.lease import holding
from cascade_batch.collection.place import Collection, open_collection
from cascade_batch.pipeline.runners.local import LocalRunner
from cascade_batch.run import images
from cascade_batch.run import paths as run_paths
from cascade_batch.run.run import open_existing
from cascade_batch.run.verify import verify
from cascade_batch.storage import Storage
from tests.collection.dying import deaths
from tests.collection.making import FOURTH, add, copied, pictures, rewritten
from tests.collection.test_diff import changed_rows
from tests.collection.test_gc import DAY, gc
from tests.run.damages import flip, truncate
from tests.run.runs import QUICK, write_prompts


def check(collection: Collection, number: int | None = None) -> EditionCheck:
    editions = editions_of(collection.table)
    return Verifier(collection).check(next(e for e in editions if number in (None, e.number)))


def found(collection: Collection, number: int | None = None) -> set[tuple[str, str]]:
    return {(difference.kind, difference.key) for difference in check(collection, number).differences}


def uri_of(collection: Collection, prompt_id: str, name: str = "image_uri", number: int | None = None) -> str:
    rows = collection.table.read([name], version=number, where=pc.field("prompt_id") == prompt_id)
    return rows[name][0].as_py()


def test_what_is_whole_verifies(stored: Collection, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collection", "verify", stored.uri]) == 0
    text = capsys.readouterr().out
    assert "edition 4: checked 6 images, 6 pictures, 4 embedding shards" in text
    assert "no differences" in text
    assert main(["collection", "verify", stored.uri, "--all"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("edition")]
    assert [line.split()[5] for line in lines] == [
        "6",
        "1",
        "1",
        "2",
    ]  # the pictures that later ones have not
    gc(stored, 1)
    assert main(["collection", "verify", stored.uri, "--all"]) == 0


DAMAGES: dict[str, tuple[Callable[[Storage, str], None], str, str]] = {
    "a picture is deleted": (lambda storage, key: storage.delete(key), "image_uri", "missing"),
    "a picture is flipped": (lambda storage, key: flip(storage, key, 200), "image_uri", "damaged"),
    "a picture is cut": (truncate, "image_uri", "damaged"),
    "embeddings are deleted": (lambda storage, key: storage.delete(key), "embedding_uri", "missing"),
    "embeddings are flipped": (lambda storage, key: flip(storage, key, 1000), "embedding_uri", "damaged"),
    "embeddings are cut": (truncate, "embedding_uri", "damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_named_and_made_good(damage: str, collection: Collection) -> None:
    """Equal bytes come back under the same URI, so there is no new edition."""
    harm, column, kind = DAMAGES[damage]
    shown, uri = pictures(collection), uri_of(collection, "prompt 3", column)
    harm(collection.storage, uri)
    assert found(collection) == {(kind, uri)}
    assert repaired(collection).edition is None
    assert found(collection) == set()
    assert pictures(collection) == shown
    assert verify(
        open_existing(collection.storage.url(uri.split("/images/")[0].split("/embeddings/")[0]))
    ).is_clean


def repaired(collection: Collection, *numbers: int) -> Repair:
    newest = editions_of(collection.table)[0]
    tables = (collection.table, collection.known)
    with holding(collection.storage, "verify --repair", tables=tables) as lease:
        checks = [check(collection, number) for number in numbers or (None,)]
        return repair(collection, newest, checks, lease, LocalRunner, Quiet())


class Quiet:
    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def progress(self, progress: object) -> None: ...


def test_the_image_and_the_prompt_are_named(
    collection: Collection, capsys: pytest.CaptureFixture[str]
) -> None:
    collection.storage.delete(uri_of(collection, "prompt 3"))
    assert main(["collection", "verify", collection.uri]) == 4
    text = capsys.readouterr().out
    assert "image prompt_3-" in text
    assert "of prompt 'prompt 3'" in text
    assert f"next: cascade-batch collection verify {collection.uri} --repair" in text
    assert main(["collection", "verify", collection.uri, "--repair", "--runner=local"]) == 4
    assert "rendered  1 shards of runs/" in capsys.readouterr().out
    assert main(["collection", "verify", collection.uri]) == 0


def test_a_picture_of_an_older_edition_alone(collection: Collection) -> None:
    uri = uri_of(collection, "prompt 5", number=1)
    collection.storage.delete(uri)
    assert found(collection) == set()
    assert found(collection, 1) == {("missing", uri)}
    repaired(collection, 4, 1)
    assert found(collection, 1) == set()


def test_a_run_that_is_gone_is_one_line_and_rendered_by_the_next_regeneration(collection: Collection) -> None:
    run = uri_of(collection, "prompt 3", "run")
    for info in collection.storage.list(f"{run}/"):
        collection.storage.delete(info.key)
    assert found(collection) == {("missing", run)}
    assert check(collection).gone_runs == {run: 3}
    assert repaired(collection).forgotten == {run: 6}
    assert add(collection, FOURTH).counts.rendered == 3
    assert found(collection) == set()


def test_rows_that_contradict_themselves(collection: Collection) -> None:
    def row(number: int, **columns: list) -> pa.Table:
        return changed_rows(collection, pc.field("prompt_id") == f"prompt {number}", **columns)

    none = [None]
    rewritten(collection, pa.concat_tables([
        row(0, status=["lost"]),
        row(1, image_uri=none),
        row(2, status=["failed"]),
        row(3, error_code=["nan_output"]),
        row(4, status=["failed"], error_code=["nan_output"]),
    ]))  # fmt: skip
    faults = [d for d in check(collection).differences if d.kind == "inconsistent"]
    assert {d.key.partition("-")[0] for d in faults} == {f"prompt_{i}" for i in range(5)}


def test_a_stale_picture_is_no_contradiction(collection: Collection) -> None:
    where = pc.field("prompt_id") == "prompt 4"
    rewritten(
        collection,
        changed_rows(collection, where, status=["failed"], error_code=["nan_output"], stale=[True]),
    )
    assert found(collection) == set()


def test_two_rows_of_one_image(collection: Collection) -> None:
    again = changed_rows(collection, pc.field("prompt_id") == "prompt 4")
    edition = editions_of(collection.table)[0].to_json() | {"number": 5}
    collection.table.append(again, after=4, metadata={"edition": edition}, token="twice")
    assert found(collection) == {("duplicate", again["image_id"][0].as_py())}


@pytest.fixture
def other_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures come out in other bytes."""
    encode = images.encode_png
    monkeypatch.setattr(images, "encode_png", lambda pixels, level: encode(pixels, level + 5))


@pytest.mark.usefixtures("other_device")
def test_other_bytes_are_a_new_edition_and_known(collection: Collection) -> None:
    uri, untouched = uri_of(collection, "prompt 3"), uri_of(collection, "prompt 2")
    collection.storage.delete(uri)
    done = repaired(collection)
    assert (done.corrected, done.left) == (1, [])
    assert done.edition is not None
    assert (done.edition.number, done.edition.kind, done.edition.of) == (5, REPAIRED, 4)
    assert found(collection) == set()
    assert uri_of(collection, "prompt 2") == untouched
    assert_known(collection)


def assert_known(collection: Collection) -> None:
    """What the newest edition says of its pictures is what is known of them."""
    columns = ["image_uri", "image_sha256", "image_bytes", "embedding_uri", "embedding_sha256"]
    known = {row["image_uri"]: row for row in collection.known.read(columns).to_pylist()}
    for row in collection.table.read(columns).to_pylist():
        assert known[row["image_uri"]] == row


@pytest.mark.usefixtures("other_device")
@pytest.mark.parametrize("after_it", [False, True])
def test_a_repair_that_is_killed_is_finished_by_the_next(
    collection: Collection, tmp_path: Path, after_it: bool
) -> None:
    collection.storage.delete(uri_of(collection, "prompt 3"))
    died, records = 0, ("known/part", "table/part", run_paths.MANIFEST)
    for killed in deaths(
        lambda name: copied(collection.uri, str(tmp_path / name)), repaired, after_it, records
    ):
        died += 1
        run = open_existing(killed.storage.url(uri_of(killed, "prompt 2", "run")))
        run.storage.delete(run_paths.DRIVER)
        repaired(killed)
        assert found(killed) == set()
        assert_known(killed)
        assert len(pictures(killed)) == 6
    assert died == 5


def test_other_weights_are_refused_before_anything_is_changed(
    collection: Collection, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = uri_of(collection, "prompt 3")
    run = Storage(collection.storage.url(uri.split("/images/")[0]))
    weights = json.loads(run.read(run_paths.WEIGHTS))
    run.put(run_paths.WEIGHTS, json.dumps({**weights, "stage_b": "0" * 64}).encode())
    collection.storage.delete(uri)
    before = {info.key for info in collection.storage.list()}
    assert main(["collection", "verify", collection.uri, "--repair", "--runner=local"]) == 2
    error = capsys.readouterr().err
    assert "cannot be repaired with the weights that are there now" in error
    assert run.uri in error
    assert {info.key for info in collection.storage.list()} == before


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A collection whose second edition was decoded from the embeddings of the first, by the commands themselves."""
    folder = tmp_path_factory.mktemp("decoded")
    prompts, into = write_prompts(folder, 4), str(folder / "collection")
    for steps in (2, 3):
        flags = [*QUICK, f"--set=render.decoder_steps={steps}", "--runner=local"]
        assert main(["regenerate", str(prompts), "--into", into, *flags]) == 0
    assert editions_of(open_collection(into).table)[0].counts.decoded == 4
    return into


@pytest.mark.parametrize("column", ["image_uri", "embedding_uri"])
def test_a_run_that_was_decoded_is_repaired_from_the_same_embeddings(
    decoded: str, column: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collection = copied(decoded, str(tmp_path / "copy"))
    shown = pictures(collection)
    collection.storage.delete(uri_of(collection, "prompt 3", column))
    assert main(["collection", "verify", collection.uri, "--repair", "--runner=local"]) == 4
    assert main(["collection", "verify", collection.uri]) == 0
    assert pictures(collection) == shown


def test_embeddings_that_an_unfinished_run_is_to_take_are_kept(decoded: str) -> None:
    collection = open_collection(decoded)
    run = uri_of(collection, "prompt 3", "run")
    collection.storage.put(
        "runs/000003-unfinished/sources.parquet", collection.storage.read(f"{run}/sources.parquet")
    )
    before = [uri_of(collection, f"prompt {i}", "embedding_uri", number=1) for i in range(4)]
    gc(collection, 1, DAY)
    marked = [key for found in mark_sets(collection.storage) for key in found.keys.to_pylist()]
    assert uri_of(collection, "prompt 0", "image_uri", number=1) in marked
    assert not set(before) & set(marked)
