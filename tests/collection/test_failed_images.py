"""Images that fail: in the edition as failed rows, tried once a regeneration, with their last good picture if asked."""

from pathlib import Path

import pytest

from tests.collection.conftest import TABLE
from tests.collection.regenerations import (
    by_prompt,
    check,
    history,
    newest,
    no_runner,
    regenerate,
    runs_of,
    write_table,
)
from tests.run.remembered import Asked
from tests.run.runs import manifest_of
from tests.run.test_retry_failed import break_networks
from tests.whole_model import write_image_encoder

CURSED = "a cursed circle"
"""The text that `break_networks` has Stage C fail."""
DONE_WITH_FAILED_ROWS = 6


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch, asked: Asked) -> Asked:
    """Networks that fail one text, and, as they are asked through `asked`, tell what they were asked for."""
    break_networks(monkeypatch)
    return asked


def with_texts(folder: Path, *texts: str | None) -> Path:
    """`TABLE` with other first texts."""
    return write_table(folder, TABLE | {"prompt": [*texts, *TABLE["prompt"][len(texts) :]]})


def test_a_null_prompt_is_a_failed_row_and_makes_no_runner(night: str, tmp_path: Path) -> None:
    prompts = with_texts(tmp_path, None)
    with no_runner():
        assert regenerate(prompts, night) == DONE_WITH_FAILED_ROWS
        assert regenerate(prompts, night) == DONE_WITH_FAILED_ROWS
        assert regenerate(prompts, night, "--retry-failed=never") == DONE_WITH_FAILED_ROWS
    assert len(history(night)) == 2
    row = by_prompt(night)["prompt 0"]
    assert (row["status"], row["error_code"], row["image_uri"], row["stage_ba_key"]) == (
        *("failed", "null_prompt"),
        *(None, None),
    )
    counts = newest(night).counts
    assert (counts.failed, counts.reused, counts.changed, counts.rendered) == (1, 5, 1, 0)
    check(night)


def test_a_picture_that_is_none_is_refused_at_once(tmp_path: Path, asked: Asked) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    columns = {"id": ["a", "b"], "prompt": ["a red circle"] * 2, "image": ["a.png", "gone.png"]}
    prompts, into = write_table(tmp_path, columns), str(tmp_path / "collection")
    encoder = write_image_encoder(tmp_path / "encoder")
    with no_runner():
        assert (
            regenerate(prompts, into, f"--set=model.image_encoder={encoder}", "--dtype=float32")
            == DONE_WITH_FAILED_ROWS
        )
    assert {row["error_code"] for row in by_prompt(into).values()} == {"bad_image"}
    assert runs_of(into) == []


def test_a_failed_image_is_tried_once_a_regeneration(night: str, tmp_path: Path, faulty: Asked) -> None:
    prompts = with_texts(tmp_path, CURSED, "a blue circle")
    assert regenerate(prompts, night) == DONE_WITH_FAILED_ROWS
    row, counts = by_prompt(night)["prompt 0"], newest(night).counts
    assert (row["status"], row["error_code"], row["image_uri"]) == ("failed", "nan_output", None)
    assert row["stage_ba_key"] != by_prompt(night, 1)["prompt 0"]["stage_ba_key"]
    assert (counts.failed, counts.rendered, counts.reused, counts.changed) == (1, 1, 4, 2)
    assert len(history(night)) == 2

    for _ in range(2):
        faulty.clear()
        assert regenerate(prompts, night) == DONE_WITH_FAILED_ROWS
        assert faulty.prompts == {CURSED}
        assert len(history(night)) == 2, "it failed as before"
    assert [len(manifest_of(f"{night}/{run}")) for run in runs_of(night)] == [6, 2, 1, 1]
    with no_runner():
        assert regenerate(prompts, night, "--retry-failed=never") == DONE_WITH_FAILED_ROWS
    check(night)


def test_a_failed_image_that_can_be_rendered_later_is(night: str, tmp_path: Path, asked: Asked) -> None:
    prompts = with_texts(tmp_path, CURSED)
    with pytest.MonkeyPatch.context() as patch:
        break_networks(patch)
        assert regenerate(prompts, night) == DONE_WITH_FAILED_ROWS
    asked.clear()
    assert regenerate(prompts, night, "--retry-failed=never") == DONE_WITH_FAILED_ROWS
    assert asked.prompts == set()
    assert regenerate(prompts, night) == 0
    assert asked.prompts == {CURSED}
    assert by_prompt(night)["prompt 0"]["status"] == "ok"
    assert regenerate(prompts, night, "--retry-failed=never") == 0
    assert len(history(night)) == 3


def test_never_leaves_alone_what_failed_and_not_what_was_not_tried(
    night: str, tmp_path: Path, faulty: Asked
) -> None:
    assert regenerate(with_texts(tmp_path, CURSED), night) == DONE_WITH_FAILED_ROWS
    faulty.clear()
    prompts = with_texts(tmp_path, CURSED, CURSED, "a blue circle")  # the second one with a seed of its own
    assert regenerate(prompts, night, "--retry-failed=never") == DONE_WITH_FAILED_ROWS
    assert (faulty.prompts, faulty.seeds) == ({CURSED, "a blue circle"}, {2})
    assert newest(night).counts.failed == 2


def test_the_last_good_picture_stays_out_unless_it_is_asked_for(
    night: str, tmp_path: Path, faulty: Asked
) -> None:
    before = by_prompt(night)["prompt 0"]
    prompts = with_texts(tmp_path, CURSED, None)
    assert regenerate(prompts, night, "--keep-stale") == DONE_WITH_FAILED_ROWS
    row, counts = by_prompt(night)["prompt 0"], newest(night).counts
    assert (row["status"], row["stale"], row["prompt"]) == ("failed", True, CURSED)
    assert row["stage_ba_key"] not in (None, before["stage_ba_key"]), "of what the row asks for"
    shown = ("image_uri", "image_sha256", "run", "rendered_in")
    assert [row[name] for name in shown] == [before[name] for name in shown]
    assert (counts.stale, counts.failed, counts.reused) == (2, 2, 4)
    assert regenerate(prompts, night, "--keep-stale") == DONE_WITH_FAILED_ROWS
    assert len(history(night)) == 2, "as stale as before"
    check(night)

    prompts = with_texts(tmp_path, CURSED, None, "a blue circle")
    assert regenerate(prompts, night, "--keep-stale") == DONE_WITH_FAILED_ROWS
    row = by_prompt(night)["prompt 0"]
    assert [row[name] for name in shown] == [before[name] for name in shown], (
        "it stays for more than one edition"
    )

    assert regenerate(prompts, night) == DONE_WITH_FAILED_ROWS
    rows, counts = by_prompt(night), newest(night).counts
    assert [rows[f"prompt {n}"]["image_uri"] for n in (0, 1)] == [None, None]
    assert (counts.stale, counts.failed, counts.changed) == (0, 2, 2)
    assert regenerate(prompts, night, "--keep-stale") == DONE_WITH_FAILED_ROWS
    assert newest(night).counts.stale == 0, "there is none to keep any more"
    check(night)


def test_a_stale_image_that_is_rendered_is_stale_no_more(night: str, tmp_path: Path, asked: Asked) -> None:
    prompts = with_texts(tmp_path, CURSED)
    with pytest.MonkeyPatch.context() as patch:
        break_networks(patch)
        assert regenerate(prompts, night, "--keep-stale") == DONE_WITH_FAILED_ROWS
    assert regenerate(prompts, night, "--keep-stale") == 0
    row = by_prompt(night)["prompt 0"]
    assert (row["status"], row["stale"], row["rendered_in"]) == ("ok", False, 3)
    assert regenerate(with_texts(tmp_path, TABLE["prompt"][0]), night, "--keep-stale") == 0
    assert by_prompt(night)["prompt 0"] == by_prompt(night, 1)["prompt 0"]


def test_too_many_failed_rows_are_no_edition(
    night: str, tmp_path: Path, faulty: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = with_texts(tmp_path, CURSED, CURSED, CURSED, CURSED)
    assert regenerate(prompts, night, "--max-failed-rows=1") == 3
    assert "no edition" in capsys.readouterr().out
    assert len(history(night)) == 1
    assert regenerate(prompts, night) == DONE_WITH_FAILED_ROWS
    assert newest(night).counts.failed == 4
    check(night)
