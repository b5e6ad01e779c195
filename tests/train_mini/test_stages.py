"""Each stage's training runs, learns, stops and goes on; what it leaves is a model folder that renders."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch
from torch.nn import functional as F

from cascade_batch.cascade import Decoder, DecoderBatch, PartFiles, Prior, PriorBatch
from cascade_batch.weights import SUBFOLDERS
from jobs.train_mini import publish, stage_a, stage_b, stage_c, text
from jobs.train_mini.drawing import draw
from jobs.train_mini.embedding import Embedder, sample_grid
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
    Embedder.fit(scenes=60).save(out / "embedder.safetensors")
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


def test_the_embedding_keeps_what_a_picture_shows() -> None:
    """A linear map back to pixels, fitted on some scenes, is close on others."""
    rng = Random(4)
    scenes = [training_scene(rng) for _ in range(90)]
    embedder = Embedder.fit(scenes=400)
    embeddings = embedder.of_scenes(scenes, 1024, 1024)
    assert embeddings.shape == (90, 16, 24, 24)
    assert abs(embeddings.std().item() - 1) < 0.1
    grids = torch.cat([sample_grid(scene, 1024, 1024) for scene in scenes])
    pixels = F.unfold(F.pad(grids, (4, 3, 4, 3), mode="replicate"), 8, stride=8).transpose(1, 2).flatten(0, 1)
    known = F.unfold(embeddings, 3, padding=1).transpose(1, 2).flatten(0, 1)
    known = torch.cat([known, torch.ones(len(known), 1)], 1)
    fitted = len(known) * 3 // 4
    back = torch.linalg.lstsq(known[:fitted], pixels[:fitted]).solution
    error = (known[fitted:] @ back - pixels[fitted:]).square().mean()
    assert -10 * torch.log10(error) > 29


@pytest.mark.parametrize(("height", "width"), [(1024, 1024), (512, 768), (640, 384)])
def test_embeddings_have_the_size_that_rendering_asks_for(height: int, width: int) -> None:
    scenes = [training_scene(Random(1))]
    embeddings = Embedder.fit(scenes=40).of_scenes(scenes, height, width)
    assert embeddings.shape[2:] == (-(-height * 100 // 4267), -(-width * 100 // 4267))


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
