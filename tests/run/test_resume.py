"""What a resume refuses, what it may change, and how a sitting is interrupted politely."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_batch import weights
from cascade_batch.pipeline import sitting
from cascade_batch.run import paths
from cascade_batch.storage import Storage
from tests.patience import PATIENCE_S, wait_until
from tests.run.failing import Died, Writes, failing_writes
from tests.run.kills import FAST, PAUSING, Driver
from tests.run.remembered import Asked, remember
from tests.run.runs import QUICK, contents, differences, manifest_of, render, write_prompts


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return remember(monkeypatch)


@pytest.fixture
def begun(asked: Asked, tmp_path: Path) -> tuple[Path, str]:
    """A prompt table, and its run of two shards whose driver died among the images of the second."""
    prompts, out = write_prompts(tmp_path, 4), str(tmp_path / "run")
    die_at(prompts, out, "images/shard-00000001")
    return prompts, out


def die_at(prompts: Path, out: str, key: str, *flags: str) -> None:
    """A sitting whose driver dies when it has written the first object under `key`."""
    counting = Writes()
    with failing_writes(counting):
        assert render(prompts, f"{out}-counted", *FAST, *flags) == 0
    shutil.rmtree(f"{out}-counted")
    number = next(n for n, written in enumerate(counting.keys, 1) if written.startswith(key))
    with failing_writes(Writes(number, "after it landed")), pytest.raises(Died):
        render(prompts, out, *FAST, *flags)


def objects(out: str, *but: str) -> dict[str, bytes]:
    storage = Storage(out)
    return {info.key: storage.read(info.key) for info in storage.list() if info.key not in but}


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("--seed=1", "seed"),
        ("--width=384", "render.width"),
        ("--set=render.prior_steps=3", "render.prior_steps"),
        ("--set=render.decoder_guidance_scale=1.5", "render.decoder_guidance_scale"),
        ("--set=render.negative_prompt=blurry", "render.negative_prompt"),
        ("--set=shards.prompts=3", "shards.prompts"),
        ("--set=output.png_level=2", "output.png_level"),
        ("--limit=3", "prompts.limit"),
        ("--column=kind=category", "prompts.columns"),
        ("--dtype=bfloat16", "model.dtype.c"),
    ],
)
def test_a_field_that_matters_is_refused_by_name_and_nothing_is_written(
    begun: tuple[Path, str], flag: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = begun
    before = objects(out)
    assert render(prompts, out, *FAST, flag) == 2
    assert f"{named}: the run has" in capsys.readouterr().err
    assert objects(out) == before


@pytest.mark.parametrize("pool", ["c", "ba"])
@pytest.mark.parametrize("key", ["batch", "threads"])
def test_other_numerics_are_refused_by_name(
    begun: tuple[Path, str], pool: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = begun
    before = objects(out, paths.DRIVER)
    assert render(prompts, out, *FAST, f"--set=pools.{pool}.{key}=3") == 2
    assert f"pools.{pool}.{key} was fixed" in capsys.readouterr().err
    assert objects(out, paths.DRIVER) == before


def test_pool_sizes_limits_log_and_the_tables_place_may_change(
    begun: tuple[Path, str], asked: Asked, tmp_path: Path
) -> None:
    prompts, out = begun
    asked.clear()
    moved = (
        Path(shutil.copytree(prompts.parent, tmp_path / "moved", ignore=lambda *_: ["run"])) / prompts.name
    )
    flags = ("--c-actors=2", "--ba-actors=3", "--max-failed-rows=9", "--set=log.level=error")
    assert render(moved, out, *FAST, *flags) == 0
    assert asked.prompts == set(), "the second shard's embeddings stood"
    assert render(prompts, str(tmp_path / "alone"), *FAST) == 0
    assert differences(contents(out), contents(str(tmp_path / "alone"))) == []


def test_a_changed_prompt_table_is_refused(
    begun: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = begun
    before, table = objects(out), pq.read_table(prompts)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), prompts)
    assert render(prompts, out, *FAST) == 2
    assert "table_changed" in capsys.readouterr().err
    assert objects(out) == before


@pytest.mark.parametrize("done", ["embeddings/shard-00000001", "images/shard-00000001/"])
def test_a_row_changed_behind_an_equal_footer_is_refused(
    asked: Asked, tmp_path: Path, done: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Size and footer are the same, so only the hash of the rows tells."""
    prompts, out = write_prompts(tmp_path, 4), str(tmp_path / "run")
    pq.write_table(
        pq.read_table(prompts), prompts, compression="none", use_dictionary=False, write_statistics=False
    )
    die_at(prompts, out, done)
    data = prompts.read_bytes()
    assert data.count(b"yellow circle") == 1
    prompts.write_bytes(data.replace(b"yellow circle", b"violet circle"))
    before = objects(out, paths.DRIVER, paths.OUTCOME)
    assert render(prompts, out, *FAST) == 1
    printed = capsys.readouterr()
    assert "table_changed" in printed.out
    assert "shard 1" in printed.out
    assert objects(out, paths.DRIVER, paths.OUTCOME) == before
    prompts.write_bytes(data)
    assert render(prompts, out, *FAST) == 0


def test_changed_weights_are_refused_by_part(
    asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = write_prompts(tmp_path, 4), str(tmp_path / "run")
    model = Path(shutil.copytree(weights.EMBEDDED / "tiny", tmp_path / "model"))
    die_at(prompts, out, "images/shard-00000001", f"--model={model}")
    before = objects(out, paths.DRIVER)
    file = next((model / "vqgan").glob("*.safetensors"))
    (model / "vqgan" / "SHA256SUMS").unlink()  # weights that changed together with their checksums
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert render(prompts, out, *FAST, f"--model={model}") == 2
    assert "stage_a" in capsys.readouterr().err
    assert objects(out, paths.DRIVER) == before


HEAVY = ("torch", "ray", "transformers")


@pytest.mark.parametrize("flags", [(), ("--retry-failed",)])
def test_a_finished_run_starts_nothing_heavy(asked: Asked, tmp_path: Path, flags: tuple[str, ...]) -> None:
    prompts, out = write_prompts(tmp_path, 2), str(tmp_path / "run")
    assert render(prompts, out, *FAST) == 0
    before = objects(out, paths.OUTCOME)
    command = ["render", str(prompts), "--out", out, "--runner", "ray", *QUICK, *FAST, *flags]
    program = (
        "import sys; from cascade_batch.cli import main; code = main(sys.argv[1:]); "
        f"print('heavy', [m for m in {HEAVY} if m in sys.modules]); sys.exit(code)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *command], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert ended.returncode == 0, ended.stderr
    assert "heavy []" in ended.stdout
    assert objects(out, paths.OUTCOME) == before


def once_loading(out: Path) -> bool:
    return (out / paths.WEIGHTS).exists()


def once_rendering(out: Path) -> bool:
    return any((out / paths.MANIFEST).glob("*.parquet"))


@pytest.mark.parametrize("moment", [once_loading, once_rendering])
def test_sigterm_ends_a_sitting_politely(tmp_path: Path, moment: Callable[[Path], bool]) -> None:
    prompts, out = write_prompts(tmp_path, 12), tmp_path / "run"
    driver = Driver.start(prompts, str(out), tmp_path / "log", *FAST, program=PAUSING)
    wait_until(lambda: moment(out) or driver.process.poll() is not None, period_s=0.02)
    sent = time.monotonic()
    driver.process.send_signal(signal.SIGTERM)
    assert driver.wait() == 130, driver.log.read_text()
    assert time.monotonic() - sent < 30
    outcome, printed = json.loads((out / paths.OUTCOME).read_text()), driver.log.read_text()
    assert outcome["state"] == "interrupted"
    assert outcome["shards_undone"] == 6 - len(list((out / paths.MANIFEST).glob("*.parquet")))
    assert "goes on where it stopped" in printed
    assert "Traceback" not in printed
    assert json.loads((out / paths.DRIVER).read_text())["stopped"] is True
    assert render(prompts, str(out), *FAST) == 0
    assert manifest_of(str(out)).num_rows == 12


def test_sigterm_while_the_table_is_written_ends_a_sitting_politely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, out = write_prompts(tmp_path, 4), str(tmp_path / "run")

    def interrupted(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(sitting, "write_table", interrupted)
        assert render(prompts, out) == 130
    outcome = json.loads((tmp_path / "run" / paths.OUTCOME).read_text())
    assert (outcome["state"], outcome["images_done"]) == ("interrupted", 4)
    assert render(prompts, out) == 0
    assert len(list((tmp_path / "run" / paths.TABLE).rglob("*.parquet"))) == 1
