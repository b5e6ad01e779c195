"""Train Stage B: from an embedding to Stage A's latents.

`python -m jobs.train_mini.stage_b --out build/mini`; the same command goes on after a stop. Needs
`stage_a.safetensors`.

A 1024 px picture is 256 x 256 latents; training sees windows of them, with the window of the stretched embedding
that belongs to it, so a cell covers what it covers when rendering. Some noise on the embedding stands for what
Stage C gets wrong.
"""

from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor, nn

from cascade_batch.engine.devices import pick_device
from cascade_batch.engine.networks.blocks import resize
from cascade_batch.engine.sampler import ImageNoise, denoise, generators_of
from cascade_batch.engine.schedule import make_schedule, signal_share, time_ratios
from jobs.train_mini.drawing import draw_at
from jobs.train_mini.embedding import GRID, embed
from jobs.train_mini.networks import TEXT_WIDTH, new_stage_b
from jobs.train_mini.stage_a import decibels, trained_stage_a
from jobs.train_mini.training import Course, Loss, fit, noised, per_image, read_course, seeded
from jobs.train_mini.world import Scene, any_scene

BATCH, WINDOW, NOISINGS = 8, 32, 3
"""A window is 32 x 32 of Stage B's first level, 256 px. Each serves with several noises: it costs more than a step."""
EMBEDDING_NOISE = 0.15
MARGIN = 2
"""Cells of the first level around a window that Stage A sees, so that no false border gets into the latents."""
STEPS = 10
"""Steps of a report's pictures."""


def window_of(scene: Scene, rng: Random) -> tuple[int, int]:
    """Top and left, in cells of the first level, of a window near an object, or anywhere."""
    x, y = (
        rng.choice(rng.choice(scene.things).centres) if rng.random() < 0.8 else (rng.random(), rng.random())
    )
    spots = (int(v * GRID - WINDOW / 2 + rng.uniform(-0.5, 0.5) * WINDOW) for v in (y, x))
    top, left = (min(max(0, spot), GRID - WINDOW) for spot in spots)
    return top, left


def windowed_pixels(scene: Scene, top: int, left: int) -> np.ndarray:
    """The window's pixels with a margin, repeated beyond the picture's border."""
    places = [
        np.clip((edge - MARGIN) * 8 + np.arange((WINDOW + 2 * MARGIN) * 8), 0, 1023) for edge in (top, left)
    ]
    inside = [np.unique(p) for p in places]
    picture = draw_at(scene, (inside[0] + 0.5) / 1024, (inside[1] + 0.5) / 1024, 1.0)
    return picture[np.ix_(*(np.searchsorted(i, p) for i, p in zip(inside, places, strict=True)))]


class StageBTraining:
    def __init__(self, out: Path, device: str) -> None:
        self.device, self.batch = device, BATCH * NOISINGS
        self.stage_a = trained_stage_a(out).to(device)
        self.net = new_stage_b().to(device)
        self.networks: list[nn.Module] = [self.net]

    def embedded(self, rng: Random) -> tuple[list[Scene], Tensor]:
        """Scenes, and what Stage B is told of them."""
        scenes = [any_scene(rng) for _ in range(BATCH)]
        embeddings = embed(scenes, 1024, 1024)
        amount = EMBEDDING_NOISE * torch.rand(BATCH, 1, 1, 1)
        return scenes, embeddings + amount * torch.randn_like(embeddings)

    def windows(self, rng: Random) -> tuple[Tensor, Tensor]:
        """Latents (batch, 4, 2·32, 2·32) of variance 1, and the stretched embedding's windows (batch, 16, 32, 32)."""
        scenes, embeddings = self.embedded(rng)
        cuts = [window_of(scene, rng) for scene in scenes]
        pixels = np.stack([windowed_pixels(s, *w) for s, w in zip(scenes, cuts, strict=True)])
        with torch.no_grad(), torch.autocast(self.device, torch.bfloat16):
            edge = 2 * MARGIN
            latents = self.stage_a.encode(torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.device))
            latents = latents[:, :, edge:-edge, edge:-edge].float() / self.stage_a.config.scale_factor
        stretched = resize(embeddings.permute(0, 2, 3, 1), GRID, GRID).permute(0, 3, 1, 2)
        seen = [
            whole[:, top : top + WINDOW, left : left + WINDOW]
            for whole, (top, left) in zip(stretched, cuts, strict=True)
        ]
        return latents, torch.stack(seen).to(self.device)

    def predict(self, seen: Tensor, embeddings: Tensor, ratios: Tensor) -> Tensor:
        pooled = torch.zeros(len(seen), TEXT_WIDTH, device=self.device)
        size = (seen.shape[2], seen.shape[3])
        prepared = self.net.prepare(pooled, embeddings, ratios.to(self.device), size)
        return self.net.step(seen, per_image(prepared, len(seen)), 0)

    def draw(self, rng: Random, _done: float) -> Loss:
        latents, embeddings = (part.repeat(NOISINGS, 1, 1, 1) for part in self.windows(rng))
        ratios = torch.rand(len(latents)) ** 0.4
        seen, velocity = noised(latents, signal_share(ratios).to(self.device))

        def loss(part: slice) -> Tensor:
            with torch.autocast(self.device, torch.bfloat16):
                predicted = self.predict(seen[part], embeddings[part], ratios[part])
            return (predicted - velocity[part]).square().sum() / velocity.numel()

        return loss

    @torch.no_grad()
    def report(self) -> dict[str, object]:
        """How close pictures rendered from true embeddings come to Stage A's own, on the same windows each time."""
        with torch.random.fork_rng():
            torch.manual_seed(7)
            latents, embeddings = self.windows(Random(77))
        schedule = make_schedule(time_ratios(STEPS))
        rendered = denoise(
            lambda seen, step, _guided: self.predict(seen, embeddings, schedule.ratios[step].expand(BATCH)),
            schedule,
            ImageNoise(generators_of(range(BATCH)), (4, latents.shape[2], latents.shape[3]), self.device),
            guidance=[0.0] * BATCH,
            prediction_type=self.net.config.prediction_type,
        )
        return {"psnr": decibels(self.stage_a.decode(rendered) - self.stage_a.decode(latents))}


def train(course: Course) -> None:
    seeded(course.seed)
    fit(StageBTraining(course.out, pick_device()), course.out / "stage_b.pt", course)


if __name__ == "__main__":
    train(read_course(__doc__, steps=3600))
