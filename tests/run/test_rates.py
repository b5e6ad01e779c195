"""What an image takes in each pool: from an earlier run, or measured now; and the split of GPUs that follows."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cascade_batch.cli import main
from cascade_batch.pipeline.rates import measured_in
from cascade_batch.pipeline.runners.local import LocalRunner
from cascade_batch.plan.planning import ImageGroup
from cascade_batch.plan.pools import Pools
from cascade_batch.run import paths
from cascade_batch.storage import Storage
from tests.run.runs import QUICK, render, write_prompts


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A prompt table of six, and its run, whose manifest says that an image took 3 s in pool C and 1 s in pool BA."""
    folder = tmp_path_factory.mktemp("earlier")
    prompts, out = write_prompts(folder, 6), str(folder / "run")
    assert render(prompts, out) == 0
    for key in [info.key for info in Storage(out).list(paths.MANIFEST)]:
        table = pq.read_table(f"{out}/{key}")
        for name, seconds in (("stage_c_seconds", 3.0), ("stage_ba_seconds", 1.0)):
            column = table.schema.get_field_index(name)
            table = table.set_column(column, table.schema.field(name), [[seconds] * table.num_rows])
        pq.write_table(table, f"{out}/{key}")
    return prompts, out


def planned(capsys: pytest.CaptureFixture[str], prompts: Path, *flags: str) -> dict[str, str]:
    """The lines of `plan` by their first word."""
    capsys.readouterr()
    assert main(["plan", str(prompts), *QUICK, *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}


def test_an_earlier_run_tells_the_best_split(
    earlier: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = earlier
    lines = planned(capsys, prompts, "--rate-from", out, "--gpus", "8")
    assert lines["measured"] == "an image takes pool C 3 s on cpu, pool BA 1 s on cpu"
    assert lines["split"] == "8 GPUs: pool C 6 x 1 GPU, 2.00 images/s; pool BA 2 x 1 GPU, 2.00 images/s"
    assert lines["hours"] == "0.00 at 2.00 images/s, 0.01 GPU-hours"
    assert lines["use"] == "--set pools.c.actors=6 --set pools.ba.actors=2"


def test_one_card_is_worked_on_in_turn(earlier: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    prompts, out = earlier
    lines = planned(capsys, prompts, "--rate-from", out, "--gpus", "1")
    assert "at 0.25 images/s" in lines["hours"]
    shares = "--set pools.c.gpus=0.5 --set pools.ba.gpus=0.5"
    assert lines["use"] == f"--set pools.c.actors=1 --set pools.ba.actors=1 {shares}"


def test_given_actors_are_kept_and_more_work_takes_longer(
    earlier: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = earlier
    lines = planned(capsys, prompts, "--rate-from", out, "--gpus", "8", "--c-actors", "4")
    assert "pool C 4 x 1 GPU, 1.33 images/s; pool BA 4 x 1 GPU, 4.00 images/s" in lines["split"]
    lines = planned(capsys, prompts, "--rate-from", out, "--set=render.prior_steps=200")
    seconds = float(re.findall(r"pool C ([\d.]+) s", lines["measured"])[0])
    assert 100 < seconds < 300, "a hundred times the steps, and the text once"
    assert "pool BA 1 s" in lines["measured"]


def test_rates_are_means_over_a_sample_of_the_shards(
    earlier: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out = earlier
    measured = measured_in(out)
    assert measured.groups == {ImageGroup(256, 256, 2, True, 2, False): 6}
    assert tuple(measured.devices) == (("cpu",), ("cpu",))
    assert (measured.rates().c.seconds, measured.rates().share_c) == (3.0, 0.75)
    monkeypatch.setattr("cascade_batch.pipeline.rates.SHARDS", 2)
    assert sum(measured_in(out).groups.values()) == 4, "two of the three shards"


def test_a_run_may_take_its_split_from_an_earlier_one(
    earlier: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prompts, out = earlier
    shares: list[float] = []
    size_pools = LocalRunner.size_pools

    def remember(runner: LocalRunner, *arguments) -> Pools:
        shares.append(arguments[-1])
        return size_pools(runner, *arguments)

    monkeypatch.setattr(LocalRunner, "size_pools", remember)
    run = str(tmp_path / "run")
    assert render(prompts, run, f"--set=pools.rates_from={tmp_path}") == 2
    assert "there is no run here" in capsys.readouterr().err
    assert render(prompts, run, f"--set=pools.rates_from={out}", "--set=pools.c.max_actors=4") == 0
    assert shares == [0.75]
    told = capsys.readouterr().err
    assert "an image took pool C 3 s, pool BA 1 s before" in told
    assert "pool C does not grow: this runner has one worker for it" in told


@pytest.mark.parametrize("batch", ["4", "probe"])
def test_calibration_renders_on_this_machine(
    batch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path, 6)
    flags = (f"--set=pools.c.batch={batch}", f"--set=pools.ba.batch={batch}")
    lines = planned(capsys, prompts, "--calibrate", "--gpus", "4", *flags)
    c, ba = (float(n) for n in re.findall(r"([\d.]+) s on cpu", lines["measured"]))
    assert c > 0
    assert ba > 0
    pools = re.findall(r"pool (?:C|BA) (\d) x 1 GPU", lines["split"])
    assert sum(int(n) for n in pools) == 4
    assert [path.name for path in tmp_path.iterdir()] == [prompts.name], "nothing is written"
