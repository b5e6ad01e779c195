"""What a regeneration takes over: pictures of equal keys or bits, of imported runs; what it does when one is gone."""

import shutil
from pathlib import Path

import pytest

from cascade_batch.cli import main
from cascade_batch.storage import Storage
from tests.collection.conftest import TABLE
from tests.collection.regenerations import (
    FAST,
    by_prompt,
    check,
    hashes,
    history,
    newest,
    no_runner,
    regenerate,
    rows_of,
    runs_of,
    told,
    write_table,
)
from tests.run.remembered import Asked
from tests.run.runs import render

BITS = "--reuse=bits"


def another_column(folder: Path, word: str = "other") -> Path:
    """The table with one value of its own column changed, so that there is an edition to make."""
    return write_table(folder, TABLE | {"category": [word, *TABLE["category"][1:]]})


def test_equal_bits_need_equal_threads_and_batches(night: str, tmp_path: Path, asked: Asked) -> None:
    prompts = another_column(tmp_path, "1")
    assert regenerate(prompts, night, BITS) == 0
    assert asked.seeds == set()
    assert newest(night).counts.reused == 6
    assert newest(night).options["reuse"] == "bits"
    for count, flag in enumerate(("--set=pools.ba.threads=2", "--set=pools.ba.batch=3"), 2):
        asked.clear()
        prompts = another_column(tmp_path, str(count))
        assert regenerate(prompts, night, flag) == 0
        assert asked.seeds == set(), "keys are enough"
        assert regenerate(prompts, night, flag, BITS) == 0
        assert (asked.prompts, asked.seeds) == (set(), set(TABLE["seed"])), "of Stage C the bits are equal"
        assert newest(night).counts.decoded == 6
    asked.clear()
    assert regenerate(prompts, night, "--set=pools.c.threads=2", BITS) == 0
    assert asked.prompts == set(TABLE["prompt"])
    asked.clear()
    assert regenerate(prompts, night, BITS) == 0
    assert asked.seeds == set(), "the first ones are still known"
    assert {name: row["image_uri"] for name, row in by_prompt(night).items()} == {
        name: row["image_uri"] for name, row in by_prompt(night, 1).items()
    }
    check(night)


def test_equal_bits_ask_for_a_batch_that_is_known(
    night: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = another_column(tmp_path)
    assert regenerate(prompts, night, BITS, "--set=pools.c.batch=probe") == 2
    assert "--set pools.c.batch=N" in capsys.readouterr().err
    assert len(history(night)) == 1


def test_an_imported_run_is_used_in_place(tmp_path: Path, asked: Asked) -> None:
    prompts, run, into = write_table(tmp_path, TABLE), str(tmp_path / "run"), str(tmp_path / "collection")
    assert render(prompts, run, *FAST) == 0
    before = {info.key: info.size for info in Storage(run).list()}
    for _ in range(2):
        assert main(["import", run, "--into", into]) == 0
    with no_runner():
        assert regenerate(prompts, into) == 0
    counts = newest(into).counts
    assert (counts.reused, counts.rendered, counts.new) == (6, 0, 6)
    rows = rows_of(into)
    assert {row["run"] for row in rows} == {run}
    assert all(row["image_uri"].startswith(f"{run}/images/") for row in rows)
    assert {row["rendered_in"] for row in rows} == {None}
    assert before == {info.key: info.size for info in Storage(run).list()}
    assert (newest(into).runs, runs_of(into)) == ({run: 6}, [])
    check(into)
    asked.clear()
    assert regenerate(prompts, into, "--set=render.decoder_steps=3") == 0
    assert asked.prompts == set(), "its embeddings serve as well"
    assert newest(into).counts.decoded == 6
    assert regenerate(prompts, str(tmp_path / "new"), "--set=render.decoder_steps=3") == 0
    assert (told(into), hashes(into)) == (told(str(tmp_path / "new")), hashes(str(tmp_path / "new")))


def test_an_imported_run_that_is_deleted_is_rendered_anew(tmp_path: Path, asked: Asked) -> None:
    prompts, run, into = write_table(tmp_path, TABLE), tmp_path / "run", str(tmp_path / "collection")
    assert render(prompts, str(run), *FAST) == 0
    assert main(["import", str(run), "--into", into]) == 0
    assert regenerate(prompts, into) == 0
    found = hashes(into)
    shutil.rmtree(run)
    asked.clear()
    assert regenerate(prompts, into) == 0
    assert asked.prompts == set(TABLE["prompt"])
    assert newest(into).counts.rendered == 6
    assert hashes(into) == found
    assert main(["collection", "verify", into]) == 0
    assert main(["collection", "verify", into, "1"]) == 4


def test_a_run_of_the_collection_that_is_deleted_by_hand_is_rendered_anew(
    night: str, tmp_path: Path, asked: Asked
) -> None:
    prompts = write_table(tmp_path, TABLE | {"prompt": ["a blue circle", *TABLE["prompt"][1:]]})
    assert regenerate(prompts, night) == 0
    found, first = hashes(night), runs_of(night)[0]
    shutil.rmtree(f"{night}/{first}")
    asked.clear()
    assert regenerate(prompts, night) == 0
    assert asked.prompts == set(TABLE["prompt"][1:]), "not what the other run has"
    assert hashes(night) == found
    assert main(["collection", "verify", night]) == 0


def test_a_picture_that_is_deleted_by_hand_is_found_by_verify_alone(
    night: str, tmp_path: Path, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = by_prompt(night)["prompt 0"]["image_uri"]
    found = hashes(night)
    Path(night, gone).unlink()
    with no_runner():
        assert regenerate(another_column(tmp_path), night) == 0
    capsys.readouterr()
    assert main(["collection", "verify", night]) == 4
    assert gone in capsys.readouterr().out
    assert main(["collection", "verify", night, "--repair", "--runner=local"]) == 4
    assert main(["collection", "verify", night]) == 0
    assert hashes(night) == found


def test_what_was_rendered_once_comes_back_without_rendering(
    night: str, tmp_path: Path, asked: Asked
) -> None:
    """Tables that take turns in one collection."""
    other = write_table(tmp_path, {"id": ["x"], "prompt": ["a pink circle"]}, "other")
    assert regenerate(other, night) == 0
    assert newest(night).counts.withdrawn == 6
    with no_runner():
        assert regenerate(another_column(tmp_path), night) == 0
        assert regenerate(other, night) == 0
    assert [len(rows_of(night, number)) for number in (1, 2, 3, 4)] == [6, 1, 6, 1]
    assert newest(night).counts.reused == 1
