"""Fixtures that every test may use: clean surroundings, S3 servers, and fresh roots on them.

`store` runs a test on a local folder and on S3 (moto). `seaweed_root` is for tests that need a
server which persists or checks credentials. A `..._root` fixture also sets the AWS environment.
"""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from cascade_batch.storage import failures
from tests.servers import S3Server, start_moto, start_seaweed

pytest_plugins = ["tests.quick", "tests.watchdog"]

settings.register_profile("shared machine", deadline=None)  # a slow neighbour is no failure
settings.load_profile("shared machine")


LONGEST = (
    "test_killed_drivers",
    "test_ray",
    "test_jobs",
    "test_actors_end",
    "test_failing_writes",
    "test_conditions",
    "test_failing_commits",
    "test_killed_regenerations",
    "test_two_regenerations",
    "test_story",
)
"""Files that take minutes: they go first, so that no process is left with one while the others are through."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the same order in every process, as pytest-xdist asks for."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each fuzz test that passed: how many inputs it tried (its property "fuzz")."""
    for report in terminalreporter.getreports("passed"):
        for name, told in getattr(report, "user_properties", ()):
            if name == "fuzz" and report.when == "call":
                terminalreporter.write_line(f"fuzz {told}")


@pytest.fixture(autouse=True)
def clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No credentials, endpoints or caches of the person who runs the tests, and no minute for a store that is down."""
    monkeypatch.setattr(failures, "FIRST_WAIT", 0.05)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    nowhere = tmp_path_factory.mktemp("home", numbered=True)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(nowhere / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nowhere / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("XDG_CACHE_HOME", str(nowhere / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # closed: no test reaches the real hub


@pytest.fixture(scope="session")
def moto_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = start_moto(tmp_path_factory.mktemp("moto"))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def seaweed_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = start_seaweed(tmp_path_factory.mktemp("seaweed"))
    yield server
    server.kill()  # SIGTERM would take more than 10 s


@pytest.fixture
def moto_root(moto_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh prefix on moto."""
    return _fresh_root(moto_s3, monkeypatch)


@pytest.fixture
def seaweed_root(seaweed_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh prefix on SeaweedFS."""
    return _fresh_root(seaweed_s3, monkeypatch)


@pytest.fixture(params=["local", "moto"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh root: a local folder, then a prefix on S3."""
    if request.param == "local":
        return str(tmp_path / "store")
    return request.getfixturevalue("moto_root")


def _fresh_root(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://ready/{secrets.token_hex(6)}"
