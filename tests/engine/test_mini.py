"""The shipped `mini` model: the pictures that diffusers makes of the same weights, at every size it promises."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cascade_batch.weights import EMBEDDED
from tests.engine.compare_run import their_picture
from tests.engine.velocity import their_pipelines
from tests.run.runs import DEFAULTS, manifest_of, render

MINI = EMBEDDED / "mini"
SIZES = [(1024, 1024), (384, 384), (768, 512), (640, 640)]
"""(width, height), one for each of the prompts. At 384 px not every prompt shows anything, see the model card."""
PROMPTS = [
    "three small blue squares above a large yellow star on a pink background",
    "a red circle to the left of a green triangle",
    "a purple heart",
    "a white star on a black background",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, one prompt for each size."""
    folder = tmp_path_factory.mktemp("mini")
    table = {
        "prompt": PROMPTS,
        "seed": list(range(len(PROMPTS))),
        "width": [width for width, _ in SIZES],
        "height": [height for _, height in SIZES],
    }
    pq.write_table(pa.table(table), folder / "prompts.parquet")
    assert render(folder / "prompts.parquet", str(folder / "run"), settings=DEFAULTS) == 0
    return folder / "run"


def test_pictures_equal_those_of_diffusers(run: Path) -> None:
    """Within one level of 255."""
    pipelines = their_pipelines(MINI)
    rows = manifest_of(str(run)).to_pylist()
    assert len(rows) == len(SIZES)
    for row in rows:
        ours = np.asarray(Image.open(run / row["image_uri"])).astype(int)
        assert np.abs(ours - their_picture(*pipelines, row)).max() <= 1, row["prompt"]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_it_renders_every_size_it_promises(run: Path, width: int, height: int) -> None:
    """A picture of few colours with its ground around: most of its border is of one colour, and not all of it."""
    (row,) = [
        row for row in manifest_of(str(run)).to_pylist() if (row["width"], row["height"]) == (width, height)
    ]
    picture = np.asarray(Image.open(run / row["image_uri"])).astype(int)
    assert picture.shape == (height, width, 3)
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    ground = np.median(border, axis=0)
    assert (np.abs(border - ground).max(-1) < 20).mean() > 0.9
    inner = picture[height // 8 : -height // 8, width // 8 : -width // 8]
    assert 0.02 < (np.abs(inner - ground).max(-1) > 60).mean() < 0.6


def test_the_folder_is_small_and_has_its_card() -> None:
    assert sum(path.stat().st_size for path in MINI.rglob("*.safetensors")) < 16e6
    card = (MINI / "MODEL_CARD.md").read_text()
    for told in ("Apache-2.0", "jobs.train_mini.stage_c", "jobs.evaluate", "guidance off", "Limits"):
        assert told in card
