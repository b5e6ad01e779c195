"""Each stage's training runs, learns, stops and goes on; what it leaves is a model folder that renders."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from cascade_batch.engine.batches import DecoderBatch, PriorBatch
from cascade_batch.engine.decoder import Decoder
from cascade_batch.engine.prior import Prior
from jobs.train_mini import publish, refined, stage_a, stage_b, stage_c, text, training
from jobs.train_mini.drawing import draw
from jobs.train_mini.embedding import DEPTH, embed
from jobs.train_mini.training import Course, fit, noised, parts_of, rate_at
from jobs.train_mini.world import training_scene
from tests.engine.oracle import model_parts


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    for stage in (stage_a, stage_b, stage_c):
        patch.setattr(stage, "BATCH", 2)
    for name, value in {"MAPPER_STEPS": 5, "MAPPER_SCENES": 2}.items():
        patch.setattr(refined, name, value)
    patch.setattr(training, "EVERY", 2)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage after a few steps."""
    out = tmp_path_factory.mktemp("mini")
    course = Course(out, steps=4, rate=1e-3)
    text.train(out, steps=4, seed=1)
    stage_a.train(course)
    stage_b.train(replace(course, steps=2))
    stage_c.train(replace(course, until=2))
    refined.train(replace(course, steps=2))
    return out


def log_of(out: Path, stage: str) -> list[dict]:
    return [json.loads(line) for line in (out / f"{stage}.log").read_text().splitlines()]


def test_a_stopped_training_goes_on(trained: Path) -> None:
    before = torch.load(trained / "stage_c.pt", weights_only=True)
    assert before["step"] == 2
    stage_c.train(Course(trained, steps=4, rate=1e-3))
    after = torch.load(trained / "stage_c.pt", weights_only=True)
    assert after["step"] == 4
    assert after["seconds"] > before["seconds"]
    assert [entry["step"] for entry in log_of(trained, "stage_c")] == [2, 4]
    moved = [not torch.equal(a, b) for a, b in zip(before["average"][0], after["average"][0], strict=True)]
    assert sum(moved) > len(moved) * 0.8


def test_stage_a_keeps_the_statistics_of_its_batches(trained: Path) -> None:
    state = stage_a.trained_stage_a(trained).state_dict()
    means = [tensor for name, tensor in state.items() if name.endswith("running_mean")]
    assert means
    assert all(mean.abs().max() > 0 for mean in means)


def test_the_published_folder_renders(trained: Path, tmp_path: Path) -> None:
    publish.publish(trained, tmp_path)
    parts = model_parts(tmp_path)
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


def test_parts_of_a_batch_learn_what_the_whole_does(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_b, "BATCH", 3)
    gradients = []
    for threads in (1, 2):
        torch.manual_seed(5)
        stage = stage_b.StageBTraining(trained, "cpu")
        stage.net.load_state_dict(torch.load(trained / "stage_b.pt", weights_only=True)["networks"][0])
        loss = stage.draw(Random(5), 0.5)
        torch.stack([loss(part) for part in parts_of(stage.batch, threads)]).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in stage.net.parameters() if p.grad is not None]))
    assert gradients[0].norm() > 0
    assert (gradients[0] - gradients[1]).norm() < 0.02 * gradients[0].norm()


def test_a_training_on_two_threads_repeats(trained: Path, tmp_path: Path) -> None:
    losses = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        torch.manual_seed(1)
        stage = stage_b.StageBTraining(trained, "cpu")
        fit(stage, tmp_path / name / "stage_b.pt", Course(tmp_path / name, steps=2, threads=2))
        losses.append([entry["loss"] for entry in log_of(tmp_path / name, "stage_b")])
    assert losses[0] == losses[1]


def test_the_mapper_learns_to_do_without_depth(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refined, "MAPPER_STEPS", 200)
    monkeypatch.setattr(refined, "MAPPER_SCENES", 16)
    mapper = stage_b.StageBTraining(trained, "cpu").net.effnet_mapper
    assert refined.forget_depth(mapper, Random(1)) < 0.2
    deep = embed([training_scene(Random(1))], 1024, 1024).permute(0, 2, 3, 1)
    flat = deep.clone()
    flat[..., DEPTH] = 0
    assert torch.equal(mapper(deep), mapper(flat))


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
