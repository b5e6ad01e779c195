"""Going back to an older edition, before, between and after gcs."""

from pathlib import Path

import pyarrow as pa
import pytest

from cascade_batch.cli import main
from cascade_batch.collection.care import marks
from cascade_batch.collection.care.garbage import collect, fates
from cascade_batch.collection.care.restoring import restore
from cascade_batch.collection.editions import RESTORED, Edition, editions_of
from cascade_batch.collection.lease import holding
from cascade_batch.collection.place import Collection
from cascade_batch.errors import SpecError
from tests.collection.dying import deaths
from tests.collection.making import FIRST, add, copied, pictures
from tests.collection.test_gc import DAY, gc, missing_of


def restored(collection: Collection, number: int) -> Edition | None:
    with holding(collection.storage, "restore", tables=(collection.table, collection.known)) as lease:
        return restore(collection, number, lease)


def known_uris(collection: Collection) -> list[str]:
    return sorted(collection.known.read(["image_uri"])["image_uri"].to_pylist())


def test_an_older_edition_is_the_newest_again(stored: Collection) -> None:
    rows, shown, known = stored.table.read(version=2), pictures(stored, 2), known_uris(stored)
    edition = restored(stored, 2)
    assert edition is not None
    assert (edition.number, edition.kind, edition.of, edition.name) == (5, RESTORED, 2, None)
    assert editions_of(stored.table)[0] == edition
    assert (edition.counts.changed, edition.counts.carried, edition.counts.new) == (1, 1, 0)
    assert sorted(map(repr, stored.table.read().to_pylist())) == sorted(map(repr, rows.to_pylist()))
    assert pictures(stored) == shown
    assert known_uris(stored) == known


def test_again_it_is_nothing_to_do(collection: Collection) -> None:
    assert restored(collection, 1) is not None
    assert restored(collection, 1) is None
    assert restored(collection, 5) is None
    assert restored(collection, 4) is not None


def test_a_table_of_other_columns_comes_back_with_its_own(collection: Collection) -> None:
    schema = collection.table.schema(1)
    plain = collection.table.read().drop(["category"])
    metadata = {"edition": editions_of(collection.table)[0].to_json() | {"number": 5}}
    collection.table.overwrite(plain.to_batches(), plain.schema, after=4, metadata=metadata, token="without")
    assert restored(collection, 1) is not None
    assert collection.table.schema() == schema


def test_what_was_marked_is_saved_and_known_again(stored: Collection) -> None:
    rows = stored.known.read().sort_by("image_uri")
    gc(stored, 1, DAY)
    assert stored.known.read().num_rows < rows.num_rows
    assert restored(stored, 1) is not None
    assert [d["decision"] for d in marks.decisions(stored.storage)] == [marks.SAVED]
    again = stored.known.read().sort_by("image_uri")
    wanted = rows.filter(pa.array([uri in set(known_uris(stored)) for uri in rows["image_uri"].to_pylist()]))
    assert again == wanted
    assert {row["image_uri"] for row in stored.table.read(["image_uri"]).to_pylist()} <= set(
        known_uris(stored)
    )
    gc(stored, 1)
    assert missing_of(stored, (5,)) == []
    assert fates(stored) == {4: "swept", 3: "swept", 2: "swept"}


def test_a_regeneration_after_it_renders_what_went_and_no_more(collection: Collection) -> None:
    gc(collection, 1, DAY)
    restored(collection, 1)
    assert add(collection, FIRST).counts.rendered == 0


def test_an_edition_that_was_swept_is_refused(collection: Collection) -> None:
    gc(collection, 2)
    with pytest.raises(SpecError, match="cannot be restored") as told:
        restored(collection, 1)
    assert "its rows can be read no more" in str(told.value)
    assert restored(collection, 3) is not None


def test_an_edition_of_which_one_picture_is_gone_is_refused_with_the_number(collection: Collection) -> None:
    uri = collection.table.read(["image_uri"], version=1)["image_uri"][0].as_py()
    collection.storage.delete(uri)
    with pytest.raises(SpecError) as told:
        restored(collection, 1)
    assert "1 of its 10 pictures, embedding shards and data files are gone" in str(told.value)
    assert uri in str(told.value)


def test_what_a_killed_sweep_has_not_reached_yet_is_refused_all_the_same(
    collection: Collection, tmp_path: Path
) -> None:
    """The decision stands, so another gc may delete any of it at any time."""

    def sweep(fresh: Collection) -> None:
        with holding(fresh.storage, "gc") as lease:
            collect(fresh, 1, 0.0, lease)

    decided = 0
    for killed in deaths(lambda name: copied(collection.uri, str(tmp_path / name)), sweep, after_it=True):
        is_decided = bool(marks.decisions(killed.storage))
        decided += is_decided
        if is_decided:
            with pytest.raises(SpecError, match="cannot be restored"):
                restored(killed, 1)
        else:
            assert restored(killed, 1) is not None
            gc(killed, 1)
            assert missing_of(killed, (5,)) == []
    assert decided > 10


@pytest.mark.parametrize("after_it", [False, True])
def test_killed_at_every_write_it_may_be_repeated(
    collection: Collection, tmp_path: Path, after_it: bool
) -> None:
    gc(collection, 1, DAY)
    undisturbed = copied(collection.uri, str(tmp_path / "undisturbed"))
    restored(undisturbed, 1)
    died = 0
    for killed in deaths(
        lambda name: copied(collection.uri, str(tmp_path / name)), lambda c: restored(c, 1), after_it
    ):
        died += 1
        restored(killed, 1)
        assert pictures(killed) == pictures(undisturbed)
        assert known_uris(killed) == known_uris(undisturbed)
        newest = editions_of(killed.table)[0]
        assert (newest.number, newest.kind) == (5, RESTORED)
        gc(killed, 1)
        assert missing_of(killed, (5,)) == []
    assert died >= 2


def test_the_command_tells_what_came_back(collection: Collection, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collection", "restore", collection.uri, "1"]) == 0
    text = capsys.readouterr().out
    assert "edition 5 shows what edition 1 did: 6 images" in text
    assert main(["collection", "restore", collection.uri, "1"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["collection", "restore", collection.uri, "9"]) == 2
    assert "no such edition" in capsys.readouterr().err
