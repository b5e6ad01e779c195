"""Prompts and runs near each other: refused where the run would be read as prompts, else resumable."""

import os
import shutil
from pathlib import Path

import pytest

from cascade_batch.cli import main
from cascade_batch.storage import Storage
from tests.run.runs import render, write_prompts

EMPTY = "--limit=0"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`in/` with prompts, `link` to it, as the working directory and the home."""
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    write_prompts(tmp_path / "in", 2)
    shutil.copy(tmp_path / "in/prompts-2.parquet", tmp_path / "in/deep/more.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("prompts", "out"),
    [
        ("in", "in"), ("in", "in/run"), ("in/", "./in//"), ("in", "in/../in"), ("in", "link"), ("link", "in/run"),
        ("in", "link/run/x"), ("in", "~/in/run"), ("in", "file://{here}/in/run"), ("file://{here}/in", "in"),
        ("{here}/in", "in/run"), ("in/*.parquet", "in"), ("in/*", "in"), ("in/**/*.parquet", "in/run"),
        ("in/**", "in/run"), ("in/*/*.parquet", "in/run"), ("i?/**", "in/run"), (".", "in/run"), (".", "run"),
        ("in/d*/*.parquet", "in/deep"), ("link/*.parquet", "in"),
    ],
)  # fmt: skip
def test_a_run_among_its_prompts_is_refused_in_every_spelling(
    prompts: str, out: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = prompts.format(here=here), out.format(here=here)
    assert main(["plan", prompts, "--out", out, "--model=tiny"]) == 2
    assert render(prompts, out, EMPTY) == 2
    assert "inside the folder of the prompt table" in capsys.readouterr().err
    assert not list(here.rglob("run.json"))


@pytest.mark.parametrize(
    ("prompts", "out"),
    [
        ("in/prompts-2.parquet", "in"),
        ("in/prompts-2.parquet", "in/run"),
        ("in/*.parquet", "in/run"),
        ("in/deep", "in"),
        ("in", "in/_runs/a"),
        ("in", "in/.runs/a"),
        ("in/p*.parquet", "in/deep"),
        ("in", "in2"),
        ("in", "."),
    ],
)
def test_a_run_near_its_prompts_goes_on(prompts: str, out: str, here: Path) -> None:
    assert render(prompts, out, EMPTY) == 0
    assert render(prompts, out, EMPTY) == 0
    if (here / out / "run.json").is_file():
        assert main(["status", out]) == 0


def test_prompts_where_the_run_would_write_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.rename("in/prompts-2.parquet", "in/plan.parquet")
    os.makedirs("in/manifest")
    shutil.copy("in/plan.parquet", "in/manifest/shard-00000000.parquet")
    for prompts in ("in/plan.parquet", "in/manifest", "in/manifest/shard-00000000.parquet", "in/manifest/*"):
        assert render(prompts, "link", EMPTY) == 2
        assert "where the run would write" in capsys.readouterr().err


def test_other_runs_below_the_prompts_change_nothing(here: Path) -> None:
    assert render("in", "out", EMPTY) == 0
    assert render("in/prompts-2.parquet", "in/other", EMPTY) == 0
    assert render("in", "out", EMPTY) == 0


def test_a_run_that_an_earlier_version_began_among_its_prompts_goes_on(here: Path) -> None:
    assert render("in", "out", EMPTY) == 0
    for path in sorted(Path("out").iterdir()):
        shutil.move(path, "in")
    assert render("in", "in", EMPTY) == 0


@pytest.mark.parametrize(
    ("prompts", "out"), [("", ""), ("/", ""), ("", "/run"), ("", "//run"), ("/*.parquet", "")]
)
def test_a_bucket_s_spellings(
    prompts: str, out: str, moto_root: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Storage(moto_root).put("p.parquet", Path("in/prompts-2.parquet").read_bytes())
    assert render(f"{moto_root}{prompts}", f"{moto_root}{out}", EMPTY) == 2
    assert "inside the folder of the prompt table" in capsys.readouterr().err
    other = moto_root.replace("s3://", "s3a://")
    assert render(f"{moto_root}{prompts}", f"{other}{out}", EMPTY) == 2
    assert not Storage(moto_root).exists("run.json")
