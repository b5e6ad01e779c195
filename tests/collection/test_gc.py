"""gc never takes what a kept edition refers to, whatever is killed, and in the end takes all the rest."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_batch.cli import main
from cascade_batch.collection import paths
from cascade_batch.collection.care import garbage, marks
from cascade_batch.collection.care.garbage import Collected, collect, fates, survey
from cascade_batch.collection.care.living import Objects, needed_by
from cascade_batch.collection.care.restoring import restore
from cascade_batch.collection.editions import Edition, editions_of
from cascade_batch.collection.lease import holding
from cascade_batch.collection.place import Collection, open_collection
from cascade_batch.errors import IntegrityError, SpecError
from cascade_batch.run import paths as run_paths
from cascade_batch.storage import Storage
from tests.collection.dying import deaths
from tests.collection.making import FOURTH, add, copied, pictures
from tests.run.runs import QUICK

DAY = 86400.0


def gc(collection: Collection, keep: int, grace_s: float = 0.0) -> Collected:
    with holding(collection.storage, "gc", tables=(collection.table, collection.known)) as lease:
        return collect(collection, keep, grace_s, lease)


def edition(collection: Collection, number: int) -> Edition:
    return next(e for e in editions_of(collection.table) if e.number == number)


def runs_in(collection: Collection) -> list[str]:
    return sorted({info.key.split("/")[1] for info in collection.storage.list(paths.RUNS)})


def missing_of(collection: Collection, numbers: tuple[int, ...]) -> list[str]:
    """Objects that an edition needs and that are gone."""
    there = {info.key for info in collection.storage.list()}
    needed = {key for n in numbers for key in needed_by(collection, edition(collection, n)).to_pylist()}
    return sorted(needed - there)


def test_only_what_no_kept_edition_needs_is_deleted(stored: Collection) -> None:
    before, shown = {info.key for info in stored.storage.list(paths.RUNS)}, pictures(stored)
    done = gc(stored, keep=1)
    deleted = before - {info.key for info in stored.storage.list(paths.RUNS)}
    assert done.kept == (4,)
    assert pictures(stored) == shown
    assert missing_of(stored, (4,)) == []
    # Of the first run two pictures of one shard live no more, and one of another shard; the third run is gone.
    first, third = runs_in(stored)[0], edition(stored, 3).run
    names = {key.rpartition("/")[2] for key in deleted if key.startswith(f"runs/{first}/images/")}
    assert {name.partition("-")[0] for name in names} == {"prompt_0", "prompt_1", "prompt_5"}
    assert f"runs/{first}/{run_paths.embeddings_key(0)}" in deleted
    assert f"runs/{first}/{run_paths.embeddings_key(2)}" not in deleted
    assert not any(key.startswith(f"runs/{first}/{run_paths.MANIFEST}") for key in deleted)
    assert third is not None
    assert stored.storage.list(f"{third}/") == []


def test_what_it_would_do_is_told_and_not_done(
    collection: Collection, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {info.key for info in collection.storage.list()}
    assert main(["collection", "gc", collection.uri, "--keep", "2"]) == 0
    text = capsys.readouterr().out
    assert "kept      editions 4, 3" in text
    assert "given up  editions 2, 1" in text
    assert "nothing was changed" in text
    assert {info.key for info in collection.storage.list()} == before
    told, done = survey(collection, 2, 0.0), gc(collection, 2)
    assert (told.marked, told.swept, told.forgotten) == (done.marked, done.swept, done.forgotten)


def test_nothing_is_swept_before_the_grace_period_is_over(collection: Collection) -> None:
    before = {info.key for info in collection.storage.list(paths.RUNS)}
    first = gc(collection, 1, DAY)
    assert first.marked == first.waiting > 0
    assert first.swept == 0
    assert {info.key for info in collection.storage.list(paths.RUNS)} == before
    assert fates(collection) == {3: "marked", 2: "marked", 1: "marked"}
    again = gc(collection, 1, DAY)
    assert again.forgotten == 0
    files = marks.mark_sets(collection.storage)[-1].keys.to_pylist()  # which the first one has rewritten
    assert all(key.startswith(f"{paths.KNOWN}/") for key in files)
    gc(collection, 1)
    assert {info.key for info in collection.storage.list(paths.RUNS)} < before
    assert fates(collection) == {3: "swept", 2: "swept", 1: "swept"}


def test_ages_are_told_by_the_store_whatever_the_drivers_clock_says(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc(collection, 1, DAY)
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert gc(collection, 1, DAY).swept == 0
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert gc(collection, 1).swept > 0


def test_a_store_that_tells_no_time_keeps_everything(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "_store_time", lambda _: float("nan"))
    done = gc(collection, 1)
    assert done.marked > 0
    assert done.swept == 0


def test_marked_pictures_are_known_no_more_and_others_are(collection: Collection) -> None:
    gc(collection, 1, DAY)
    known = set(collection.known.read(["image_uri"])["image_uri"].to_pylist())
    shown = set(collection.table.read(["image_uri"])["image_uri"].to_pylist())
    assert known == shown


def test_an_edition_that_was_given_up_cannot_be_read(collection: Collection) -> None:
    gc(collection, 2)
    assert len(pictures(collection, 3)) == 6
    with pytest.raises(IntegrityError):
        collection.table.read(version=1)


def test_a_picture_that_comes_back_is_rendered_anew(collection: Collection) -> None:
    gc(collection, 1)
    shown = pictures(collection)
    assert add(collection, {**FOURTH, "prompt 7": ("a red circle, number 0", "even")}).counts.rendered == 1
    assert pictures(collection).items() >= shown.items()


def test_what_is_marked_and_needed_again_is_not_swept(collection: Collection) -> None:
    gc(collection, 1, DAY)
    with holding(collection.storage, "restore") as lease:
        restore(collection, 1, lease)
    gc(collection, 1)
    assert missing_of(collection, (5,)) == []
    assert len(pictures(collection)) == 6


def test_unfinished_runs_are_left_alone_while_they_are_young(collection: Collection) -> None:
    run = "runs/000005-unfinished"
    collection.storage.put(f"{run}/run.json", b"{}")
    collection.storage.put(f"{run}/images/shard-00000000/a.png", b"png")
    assert gc(collection, 1, DAY).waiting_runs == (run,)
    assert len(collection.storage.list(f"{run}/")) == 2
    done = gc(collection, 1)
    assert (done.waiting_runs, done.whole_runs[-1]) == ((), run)
    assert collection.storage.list(f"{run}/") == []
    assert any(commit.metadata.get("learnt") == run for commit in collection.known.history())


def test_a_run_of_another_place_is_never_touched(collection: Collection, made: str) -> None:
    """Its rows in `known` stay, and so do its pictures."""
    imported = f"{collection.uri}/runs/imported"
    run = edition(collection, 1).run
    assert run is not None
    for info in Storage(f"{made}/{run}").list():
        Storage(imported).put(info.key, Storage(f"{made}/{run}").read(info.key))
    assert main(["import", imported, "--into", collection.uri]) == 0
    gc(collection, 1)
    assert len([i for i in Storage(imported).list() if i.key.endswith(".png")]) == 6


def test_there_is_always_one_edition_left(collection: Collection, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="newest edition is always kept"):
        gc(collection, 0)
    assert gc(collection, 9).marked == 0


@pytest.mark.parametrize("after_it", [False, True])
def test_killed_at_every_write_it_takes_nothing_alive_and_is_finished_by_the_next(
    collection: Collection, tmp_path: Path, after_it: bool
) -> None:
    undisturbed = copied(collection.uri, str(tmp_path / "undisturbed"))
    for _ in range(3):
        gc(undisturbed, 1)
    shown, died = pictures(collection), 0
    for killed in deaths(
        lambda name: copied(collection.uri, str(tmp_path / name)), lambda c: gc(c, 1), after_it
    ):
        died += 1
        assert missing_of(killed, (4,)) == []
        for _ in range(3):
            gc(killed, 1)
        assert pictures(killed) == shown
        assert left_in(killed) == left_in(undisturbed)
        assert fates(killed) == fates(undisturbed)
    assert died > 25


def left_in(collection: Collection) -> set[str]:
    """Objects of runs, and how many others there are that are not the log's."""
    keys = Objects.below(collection.storage, "").keys.to_pylist()
    files = [k for k in keys if k.startswith(("table/part", "known/part"))]
    marked = [k for k in keys if k.startswith(marks.GC) and "decision" not in k]
    return {k for k in keys if k.startswith(paths.RUNS)} | {f"{len(files)} files", f"{len(marked)} marks"}


def test_a_run_that_goes_never_reads_as_finished(collection: Collection, tmp_path: Path) -> None:
    run, found = edition(collection, 3).run, set()
    for killed in deaths(
        lambda name: copied(collection.uri, str(tmp_path / name)), lambda c: gc(c, 1), after_it=False
    ):
        keys = {info.key.removeprefix(f"{run}/") for info in killed.storage.list(f"{run}/")}
        is_whole = any(key.startswith(run_paths.IMAGES) for key in keys)
        says_so = any(key.startswith((run_paths.MANIFEST, run_paths.TABLE)) for key in keys)
        assert is_whole or not says_so
        assert not keys or run_paths.RUN in keys
        found.add((is_whole, says_so))
    assert found == {(True, True), (True, False), (False, False)}


def test_a_gc_that_slept_while_its_marks_were_saved_deletes_nothing(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wakes right before it decides; meanwhile another process has restored what it is about to sweep."""
    gc(collection, 1, DAY)
    decide = marks.decide

    def late(storage: Storage, number: int, decision: dict) -> dict:
        if decision["decision"] == marks.SWEPT:
            monkeypatch.setattr(marks, "decide", decide)
            storage.delete(paths.LEASE)
            with holding(storage, "restore") as lease:
                restore(collection, 1, lease)
        return decide(storage, number, decision)

    monkeypatch.setattr(marks, "decide", late)
    gc(collection, 1)
    assert missing_of(collection, (5,)) == []


def test_a_second_gc_is_told_who_is_at_work(
    collection: Collection, capsys: pytest.CaptureFixture[str]
) -> None:
    with holding(collection.storage, "regenerate", period_s=0.1):
        assert main(["collection", "gc", collection.uri, "--keep", "1", "--delete"]) == 5
    assert "regenerate is at work" in capsys.readouterr().err


def test_a_regeneration_after_gc_renders_only_what_it_took(tmp_path: Path) -> None:
    """The commands themselves, with a regeneration that was killed before its edition and is gone on with."""
    prompts, into = tmp_path / "prompts.parquet", str(tmp_path / "collection")
    for texts in (["a", "b"], ["c", "b"]):
        pq.write_table(pa.table({"id": ["x", "y"], "prompt": texts}), prompts)
        assert main(["regenerate", str(prompts), "--into", into, "--runner=local", *QUICK]) == 0
    assert main(["collection", "gc", into, "--keep", "1", "--grace", "0", "--delete"]) == 0
    assert main(["collection", "verify", into]) == 0
    pq.write_table(pa.table({"id": ["x", "y"], "prompt": ["a", "b"]}), prompts)
    assert main(["regenerate", str(prompts), "--into", into, "--runner=local", *QUICK]) == 0
    assert main(["collection", "verify", into]) == 0
    newest = editions_of(open_collection(into).table)[0]
    assert (newest.counts.rendered, newest.counts.reused) == (1, 1)
