"""Drivers of a collection killed at random moments; `tests.collection.kills` says how, and what is looked at."""

from pathlib import Path

from tests.collection.kills import SHORT, Series

KILLS = 4


def test_killed_commands_end_as_if_nobody_had_been_killed(seaweed_root: str, tmp_path: Path) -> None:
    said: list[str] = []
    series = Series.prepare(tmp_path, seaweed_root, SHORT, said.append)
    done = series.run(seaweed_root, KILLS, seed=11)
    assert done.wrong == [], "\n".join(said)
    assert done.count == KILLS
