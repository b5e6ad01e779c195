"""Pictures that people have, in a table: they render as the same ones do that are opened and given to `Cascade`."""

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cascade_batch.api import Cascade
from tests.engine.pictures.scenes import encoded, exif_jpeg, grey_scene, png, png_chunk, scene
from tests.run.runs import manifest_of, render
from tests.run.test_conditions import STEPS, called_alone, flags, write_table
from tests.whole_model import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("whole"))


def turned(kind: str, image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, kind, exif=exif)


def alpha() -> np.ndarray:
    """(48, 64) uint8, transparent on the left."""
    return np.where(np.arange(64) < 32, 0, 255).astype(np.uint8) * np.ones((48, 1), np.uint8)


def files() -> dict[str, bytes]:
    deep, labels = grey_scene().astype(np.uint16) * 257, (grey_scene() > 99).astype(np.uint8)
    palette = Image.fromarray(labels, "P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    return {
        "turned": turned("JPEG", Image.fromarray(scene())),
        "broken notes": exif_jpeg(0x0100, 2, 4, b"abc\0"),
        "transparent": encoded(Image.fromarray(np.dstack([scene(), alpha()])), "PNG"),
        "deep": encoded(Image.fromarray(deep), "PNG"),
        "float": encoded(Image.fromarray(grey_scene() / np.float32(255)), "TIFF"),
        "labels": encoded(Image.fromarray(labels), "PNG"),
        "palette": encoded(palette, "PNG"),
        "brush": turned("PNG", Image.fromarray(np.dstack([scene() * 0, alpha()]))),
    }


def test_a_table_and_a_call_read_pictures_alike(tmp_path: Path, model: Path) -> None:
    found = files()
    pairs = [
        {"image": "turned"},
        {"image": "transparent"},
        {"init_image": "turned"},
        {"init_image": "broken notes"},
        {"init_image": "transparent", "mask": "labels"},
        {"init_image": "deep", "mask": "palette"},
        {"init_image": "float", "mask": "brush"},
        {"control_image": "deep"},
    ]
    rows = [
        {
            "id": f"{i}",
            "prompt": "a red circle",
            "seed": i,
            **{column: found[name] for column, name in pair.items()},
        }
        for i, pair in enumerate(pairs)
    ]
    prompts, out = write_table(tmp_path / "prompts.parquet", rows), tmp_path / "run"
    assert render(prompts, str(out), settings=flags(model)) == 0
    torch.set_num_threads(1)
    ours = Cascade.load(
        str(model),
        device="cpu",
        image_encoder=str(model / "image_encoder"),
        effnet_encoder=str(model / "effnet_encoder.safetensors"),
        controlnet=str(model / "controlnet.safetensors"),
    )
    for i, (entry, pair) in enumerate(zip(manifest_of(str(out)).to_pylist(), pairs, strict=True)):
        opened: dict[str, Any] = {name: Image.open(io.BytesIO(found[kind])) for name, kind in pair.items()}
        if "image" in opened:
            opened["images"] = opened.pop("image")
        (expected,) = called_alone(ours, {"prompt": "a red circle", "seed": i, **STEPS, **opened})
        assert entry["status"] == "ok", entry
        assert np.array_equal(np.asarray(Image.open(out / entry["image_uri"])), expected), pair


def test_a_picture_that_is_too_large_is_rendered_once_it_may_be(tmp_path: Path, model: Path) -> None:
    """The limit decides whether a row fails and nothing else, so a resume may raise it."""
    notes = png_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(2**22)))
    rows = [{"prompt": "a red circle", "seed": 1, "init_image": png(scene(), 8, 2, notes)}]
    prompts, out = write_table(tmp_path / "prompts.parquet", rows), str(tmp_path / "run")
    small = "--set=limits.picture_pixels=1000"
    assert render(prompts, out, small, settings=flags(model)) == 0
    (failed,) = manifest_of(out).to_pylist()
    assert failed["error_code"] == "bad_image"
    assert "limits.picture_pixels=3072" in failed["error_message"]
    assert render(prompts, out, "--retry-failed", small, settings=flags(model)) == 0
    assert manifest_of(out)["status"].to_pylist() == ["failed"]
    assert render(prompts, out, "--retry-failed", settings=flags(model)) == 0
    assert manifest_of(out)["status"].to_pylist() == ["ok"]
