"""Drivers killed with SIGKILL at random moments: what they leave always ends as the run that was never killed."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.run.kills import Series


@pytest.mark.timeout(1800)
def test_20_kills_of_local_drivers_on_disk_and_s3(tmp_path: Path, seaweed_root: str) -> None:
    kills, seed = Series.prepare(tmp_path, 8, "local"), random.randrange(2**32)
    print("seed", seed)
    roots = [str(tmp_path / "disk"), seaweed_root]
    with ThreadPoolExecutor(len(roots)) as both:
        results = list(both.map(kills.run, roots, (10, 10), (seed, seed + 1)))
    assert [result.count for result in results] == [10, 10]
    assert [wrong for result in results for wrong in result.wrong] == []


@pytest.mark.timeout(1800)
def test_3_kills_of_ray_drivers(tmp_path: Path, seaweed_root: str) -> None:
    """Only the driver is killed: the Ray that it started must go by itself."""
    seed = random.randrange(2**32)
    print("seed", seed)
    done = Series.prepare(tmp_path, 6, "ray").run(seaweed_root, 3, seed)
    assert done.count == 3
    assert done.wrong == []
