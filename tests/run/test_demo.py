"""The demo: its prompt table, and contact sheets of real runs, opened and compared with their pictures."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFont, ImageOps

from cascade_batch import weights
from cascade_batch.plan import worlds
from cascade_batch.settings import ModelSpec
from jobs.demo import contact_sheet, make_prompts
from jobs.demo.contact_sheet import GAP, LINE, LINES, MARGIN, TEXT_SIZE, WIDTH, wrapped
from tests.run.runs import manifest_of, render, write_prompts

LONG = "a very long prompt " * 40 + "that ends in " + "x" * 400
PROMPTS = ["a red circle", LONG, None, "a green star", "two blue squares"]
COLUMNS = 3
SIDE = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) // COLUMNS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images, one of them failed, the fourth wider than high."""
    folder = tmp_path_factory.mktemp("demo")
    prompts = write_prompts(folder, 5, prompt=PROMPTS, width=[None, None, None, 384, None])
    assert render(prompts, str(folder / "run")) == 0
    return folder / "run"


@pytest.fixture
def sheet(run: Path, tmp_path: Path) -> Image.Image:
    out = tmp_path / "sheet.png"
    assert contact_sheet.main([str(run), "--out", str(out), f"--columns={COLUMNS}"]) == 0
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        return picture.copy()


def cells(sheet: Image.Image) -> Iterator[Image.Image]:
    """What stands in each place of the grid, from a picture's top down; rows are as high as their text."""
    second = sheet.height - MARGIN - (SIDE + LINE // 2 + LINE)  # the fourth picture is lower than the fifth
    for top in (MARGIN, second):
        for column in range(COLUMNS):
            left = MARGIN + column * (SIDE + GAP)
            yield sheet.crop(
                (left, top, left + SIDE, min(top + SIDE + LINE // 2 + LINES * LINE, sheet.height))
            )


def is_blank(picture: Image.Image) -> bool:
    return bool((np.asarray(picture.convert("L")) > 250).all())


def test_every_picture_stands_above_its_caption(run: Path, sheet: Image.Image) -> None:
    assert (sheet.mode, sheet.width) == ("RGB", WIDTH)
    places = list(cells(sheet))
    for place, row in zip(places, manifest_of(str(run)).to_pylist(), strict=False):
        if row["status"] == "failed":
            height = SIDE
            assert is_blank(place.crop((4, 4, SIDE - 4, SIDE - 4)))
        else:
            with Image.open(run / row["image_uri"]) as picture:
                small = ImageOps.contain(picture, (SIDE, SIDE), Image.Resampling.LANCZOS)
            height = small.height
            np.testing.assert_array_equal(place.crop((0, 0, *small.size)), small)
        assert not is_blank(place.crop((0, height + LINE // 2, SIDE, height + LINE // 2 + LINE)))
    assert is_blank(places[-1]), "there is no sixth image"
    assert not is_blank(places[1].crop((0, SIDE + LINE // 2 + 3 * LINE, SIDE, SIDE + LINE // 2 + 4 * LINE)))


def test_captions_fit_their_column() -> None:
    font = ImageFont.load_default(TEXT_SIZE)
    assert wrapped("a red circle", font, SIDE) == ["a red circle"]
    assert wrapped("", font, SIDE) == [""]
    for text in (LONG, "x" * 400, "two words " + "x" * 400):
        for width in (100, SIDE):
            lines = wrapped(text, font, width)
            assert len(lines) <= LINES
            assert max(font.getlength(line) for line in lines) <= width
            assert lines[-1].endswith(" ...")


def test_by_default_the_sheet_lies_in_a_local_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert contact_sheet.main([str(run), "--limit=2", "--colours=16"]) == 0
    assert str(run / "contact_sheet.png") in capsys.readouterr().out
    with Image.open(run / "contact_sheet.png") as sheet:
        assert sheet.mode == "P"
        assert len(sheet.convert("RGB").getcolors()) <= 16


def test_runs_on_object_storage_too(moto_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert render(write_prompts(tmp_path, 2), moto_root) == 0
    monkeypatch.chdir(tmp_path)
    assert contact_sheet.main([moto_root]) == 0
    assert (tmp_path / "contact_sheet.png").exists()


def test_a_run_that_is_not_finished_has_no_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert contact_sheet.main([str(tmp_path)]) == 1
    assert "no table of its images yet" in capsys.readouterr().err
    assert not (tmp_path / "contact_sheet.png").exists()


def test_the_shipped_table_is_what_its_script_writes() -> None:
    table = pq.read_table(Path(make_prompts.__file__).with_name("prompts.parquet"))
    assert table.schema == pa.schema([("id", pa.string()), ("prompt", pa.string()), ("kind", pa.string())])
    assert table["prompt"].to_pylist() == [text for texts in make_prompts.PROMPTS.values() for text in texts]
    assert len(set(table["prompt"].to_pylist())) == 24


def test_the_default_model_knows_every_word_of_the_shipped_table() -> None:
    world = worlds.read_world(weights.locate(ModelSpec())["stage_c"])
    assert world is not None
    for prompt in (text for texts in make_prompts.PROMPTS.values() for text in texts):
        assert set(prompt.split()) <= world.words
        assert not world.is_outside(prompt)
    assert world.is_outside("a photograph of a cat")
