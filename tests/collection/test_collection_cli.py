"""What people read of a collection, and where a command is refused."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from cascade_batch.cli import main
from cascade_batch.cli.collection_arguments import seconds
from cascade_batch.collection.lease import holding
from cascade_batch.collection.place import Collection
from tests.collection.making import make


def printed(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> str:
    assert main(["collection", *argv]) == code
    return capsys.readouterr().out


def test_history_is_newest_first_and_aligned(
    collection: Collection, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(capsys, "history", collection.uri).splitlines()
    assert [line.split()[0] for line in lines] == ["edition", "4", "3", "2", "1"]
    assert lines[0].split()[4:] == [
        "images", "failed", "new", "changed", "withdrawn", "rendered", "decoded", "reused", "name",
    ]  # fmt: skip
    end = lines[0].index("images") + len("images")
    assert all(line[end - 1] == "6" and line[end] == " " for line in lines[1:])
    assert lines[1].endswith("day 4")


def test_history_says_what_gc_has_given_up(
    collection: Collection, capsys: pytest.CaptureFixture[str]
) -> None:
    printed(capsys, "gc", collection.uri, "--keep", "2", "--delete")
    assert "(marked)" in printed(capsys, "history", collection.uri).splitlines()[-1]
    text = printed(capsys, "gc", collection.uri, "--keep", "2", "--delete", "--grace", "0")
    assert "given up  no more editions" in text
    assert "(swept)" in printed(capsys, "history", collection.uri).splitlines()[-1]
    assert "can be read no more" in printed(capsys, "show", collection.uri, "1")


def test_show_tells_all_of_an_edition(collection: Collection, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "show", collection.uri)
    assert text.startswith("edition   4, regenerated, ")
    assert "images    6, 0 failed" in text
    assert "stage_b " in text
    assert f"delta_scan('{collection.uri}/table')" in text
    assert "edition   2" in printed(capsys, "show", collection.uri, "2")


@pytest.mark.parametrize("action", [("history",), ("show",), ("diff",), ("gc", "--keep", "1"), ("verify",)])
def test_what_is_no_collection_or_has_no_edition_is_refused(
    action: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *rest = action
    assert main(["collection", name, str(tmp_path), *rest]) == 2
    assert "not a collection" in capsys.readouterr().err
    make(str(tmp_path / "new"))
    assert main(["collection", name, str(tmp_path / "new"), *rest]) == 2
    assert "no edition yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    "action", [("restore", "1"), ("gc", "--keep", "1", "--delete"), ("verify", "--repair")]
)
def test_who_is_at_work_is_told(
    action: Sequence[str], collection: Collection, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *rest = action
    with holding(collection.storage, "regenerate", period_s=0.1):
        assert main(["collection", name, collection.uri, *rest]) == 5
        assert "regenerate is at work" in capsys.readouterr().err
        assert main(["collection", "history", collection.uri]) == 0  # looking is always allowed


def test_times_are_read_as_people_write_them() -> None:
    assert [seconds(text) for text in ("90m", "24h", "7d", "1.5h", "30s", "0")] == [
        5400, 86400, 604800, 5400, 30, 0,
    ]  # fmt: skip
    for text in ("5", "h", "-1h", "1w", ""):
        with pytest.raises(Exception, match="is no time"):
            seconds(text)


def test_a_wrong_time_or_number_of_editions_is_a_usage_error(collection: Collection) -> None:
    with pytest.raises(SystemExit):
        main(["collection", "gc", collection.uri, "--keep", "1", "--grace", "soon"])
    assert main(["collection", "gc", collection.uri, "--keep", "0"]) == 2
