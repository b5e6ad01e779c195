"""`ray job submit` of jobs/render.py and jobs/regenerate.py against a real head on this machine."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S, wait_until
from tests.run.runs import QUICK, contents, manifest_of, render, write_prompts
from tests.servers import free_ports

PROJECT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))


class Head:
    """A Ray head of its own, with ports and a token of its own."""

    def __init__(self, log: Path) -> None:
        gcs, dashboard, agent, client = free_ports(4)
        self.address = f"http://127.0.0.1:{dashboard}"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # the entry point says `python`
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
        command = [
            RAY, "start", "--head", "--block", f"--port={gcs}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
            f"--ray-client-server-port={client}", "--num-cpus=2", "--disable-usage-stats",
        ]  # fmt: skip
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=out, env=self.environment, start_new_session=True
            )

    def job(self, *words: str, timeout: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        command = [RAY, "job", words[0], "--address", self.address, *words[1:]]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=PROJECT,
            timeout=timeout,
            check=False,
        )

    def wait_until_it_takes_jobs(self) -> None:
        """The dashboard answers seconds before its agent takes a job."""
        wait_until(lambda: self.job("submit", "--", "true").returncode == 0, period_s=1)

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    head = Head(tmp_path_factory.mktemp("head") / "log")
    try:
        head.wait_until_it_takes_jobs()
        yield head
    finally:
        head.kill()


WORKING_DIR = {"working_dir": ".", "excludes": [".git", ".venv", "tests", "demo"]}


def submit(
    head: Head, name: str, *flags: str, wait: bool = True, script: str = "jobs/render.py"
) -> subprocess.CompletedProcess[str]:
    runtime = {**WORKING_DIR, "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"}}
    waiting = () if wait else ("--no-wait",)
    return head.job(
        "submit", *waiting, "--submission-id", name, "--runtime-env-json", json.dumps(runtime), "--",
        "python", script, *flags,
    )  # fmt: skip


@pytest.mark.timeout(1200)
def test_a_stopped_job_ends_cleanly_and_goes_on_when_submitted_again(head: Head, tmp_path: Path) -> None:
    prompts, out = write_prompts(tmp_path, 24), tmp_path / "run"
    # so many steps that the run outlasts the start of the command that stops it
    slow = "--set=render.prior_steps=60"
    flags = (str(prompts), "--out", str(out), *QUICK, slow)
    assert submit(head, "first", *flags, wait=False).returncode == 0
    wait_until(lambda: list(out.glob("manifest/*.parquet")))
    assert took(lambda: head.job("stop", "first")) - took(lambda: head.job("list")) < 30, "beside the command"
    assert (out / "outcome.json").exists(), head.job("logs", "first").stdout
    outcome = json.loads((out / "outcome.json").read_text())
    assert outcome["state"] == "interrupted"
    assert 0 < outcome["images_done"] < 24
    second = submit(head, "second", *flags)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "finished: 24 of 24 images done" in second.stdout
    assert manifest_of(str(out))["status"].to_pylist() == ["ok"] * 24
    assert render(prompts, str(tmp_path / "local"), slow) == 0
    assert contents(str(out)) == contents(str(tmp_path / "local"))


def test_bad_input_fails_the_job_and_says_why(head: Head, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 2)
    done = submit(head, "bad", str(prompts), "--out", str(tmp_path / "bad"), "--width", "1001")
    assert done.returncode != 0
    assert "render.width" in done.stdout


@pytest.mark.timeout(1200)
def test_an_edition_of_a_name_is_made_once_however_often_its_job_is_submitted(
    head: Head, tmp_path: Path
) -> None:
    into = tmp_path / "collection"
    flags = (str(write_prompts(tmp_path, 4)), "--into", str(into), "--edition", "2026-11-25", *QUICK)
    for name, state, said in (
        ("edition", "done", "edition 1 (2026-11-25): 4 images, 0 reused, 0 decoded, 4 rendered, 0 failed"),
        ("again", "nothing_to_do", "nothing to do: edition 1 (2026-11-25)"),
    ):
        done = submit(head, name, *flags, script="jobs/regenerate.py")
        assert done.returncode == 0, done.stdout + done.stderr
        assert said in done.stdout
        outcome = json.loads((into / "outcomes/2026-11-25.json").read_text())
        assert (outcome["state"], outcome["edition"]) == (state, 1)
    assert len(list((into / "runs").iterdir())) == 1


def test_a_collection_must_not_lie_in_the_folder_of_a_job(head: Head, tmp_path: Path) -> None:
    flags = (str(write_prompts(tmp_path, 2)), "--into", "collection")
    done = submit(head, "nowhere", *flags, script="jobs/regenerate.py")
    assert done.returncode != 0
    assert "a job's working directory is deleted with the job" in done.stdout


def took(command: Callable[[], subprocess.CompletedProcess[str]]) -> float:
    started = time.monotonic()
    done = command()
    assert done.returncode == 0, done.stdout + done.stderr
    return time.monotonic() - started
