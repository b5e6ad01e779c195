"""Each stage's training runs, learns, stops and goes on; what it leaves is a model folder that renders."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch

from cascade_batch.cascade import Decoder, DecoderBatch, PartFiles, Prior, PriorBatch
from cascade_batch.weights import SUBFOLDERS
from jobs.train_mini import publish, stage_a, stage_b, stage_c, text
from jobs.train_mini.drawing import draw
from jobs.train_mini.progress import noised, rate_at
from jobs.train_mini.world import training_scene


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    for stage in (stage_a, stage_b, stage_c):
        patch.setattr(stage, "BATCH", 2)
        patch.setattr(stage, "EVERY", 2)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage after a few steps."""
    out = tmp_path_factory.mktemp("mini")
    text.train(out, steps=4, seed=1)
    stage_a.train(out, steps=4, seed=1, rate=1e-3)
    stage_b.train(out, steps=2, seed=1, rate=1e-3)
    stage_c.train(out, steps=4, seed=1, rate=1e-3, until=2)
    return out


def log_of(out: Path, stage: str) -> list[dict]:
    return [json.loads(line) for line in (out / f"{stage}.log").read_text().splitlines()]


def test_a_stopped_training_goes_on(trained: Path) -> None:
    before = torch.load(trained / "stage_c.pt", weights_only=True)
    assert before["step"] == 2
    stage_c.train(trained, steps=4, seed=1, rate=1e-3, until=10)
    after = torch.load(trained / "stage_c.pt", weights_only=True)
    assert after["step"] == 4
    assert after["seconds"] > before["seconds"]
    assert [entry["step"] for entry in log_of(trained, "stage_c")] == [2, 4]
    moved = [not torch.equal(a, b) for a, b in zip(before["average"][0], after["average"][0], strict=True)]
    assert sum(moved) > len(moved) * 0.8


def test_the_published_folder_renders(trained: Path, tmp_path: Path) -> None:
    publish.publish(trained, tmp_path)
    parts = {}
    for name, subfolder in SUBFOLDERS.items():
        folder = tmp_path / subfolder
        config = {} if name == "tokenizer" else json.loads((folder / "config.json").read_text())
        parts[name] = PartFiles(config, folder, tuple(sorted(folder.glob("*.safetensors"))))
    assert parts["stage_c"].config["prediction_type"] == "v_prediction"
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) < 16e6
    for height, width in ((512, 512), (640, 384)):
        seen = Prior.load(parts, "float32", "cpu").render(
            PriorBatch(["a red circle"], [""], [1], height, width, 2, [4.0])
        )
        images = Decoder.load(parts, "float32", "cpu").render(
            DecoderBatch(seen.embeddings, seen.pooled, seen.negative_pooled, [1], height, width, 2, [0.0])
        )
        assert images.pixels.shape == (1, height, width, 3)
        assert not images.has_nan[0]


@pytest.mark.parametrize(("top", "left", "seen"), [(48, 40, 0), (0, 0, 4), (96, 40, 4)])
def test_stage_bs_windows_are_cut_from_the_whole(trained: Path, top: int, left: int, seen: int) -> None:
    """A window's latents are those of the whole picture there; Stage A sees `seen` latents of its border."""
    scene = training_scene(Random(9))
    net = stage_a.trained_stage_a(trained)
    whole = net.encode(torch.from_numpy(draw(scene, 1024, 1024)).permute(2, 0, 1)[None])
    pixels = torch.from_numpy(stage_b.windowed_pixels(scene, top, left)).permute(2, 0, 1)[None]
    window = net.encode(pixels)[:, :, 4:-4, 4:-4]
    expected = whole[:, :, 2 * top : 2 * top + 64, 2 * left : 2 * left + 64]
    inner = slice(seen, 64 - seen)
    assert torch.allclose(window[:, :, inner, inner], expected[:, :, inner, inner], atol=1e-3)


def test_velocity_and_signal_give_back_the_latents() -> None:
    latents, signal = torch.randn(3, 4, 5, 5), torch.tensor([0.1, 0.5, 0.9])
    seen, velocity = noised(latents, signal)
    share = signal.view(-1, 1, 1, 1)
    assert torch.allclose(share.sqrt() * seen - (1 - share).sqrt() * velocity, latents, atol=1e-5)


def test_learning_rates_rise_stay_and_fall() -> None:
    rates = [rate_at(step, 1000) for step in range(1000)]
    assert rates[0] == 0.01
    assert rates[300] == 1.0
    assert rates[599] == 1.0
    assert rates[-1] == 0.01
    assert sorted(rates[600:], reverse=True) == rates[600:]
