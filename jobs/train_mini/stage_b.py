"""Train Stage B: from an embedding to Stage A's latents.

`python -m jobs.train_mini.stage_b --out build/mini`; the same command goes on after a stop. Needs
`stage_a.safetensors`.

A 1024 px picture is 256 x 256 latents; training sees windows of them, with the window of the stretched embedding
that belongs to it, so a cell covers what it covers when rendering. Some noise on the embedding stands for what
Stage C gets wrong.
"""

import argparse
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor, nn

from cascade_batch.models.blocks import resize
from cascade_batch.models.sampler import ImageNoise, denoise
from cascade_batch.models.schedule import make_schedule, signal_share
from cascade_batch.models.unet import Prepared
from jobs.train_mini.captioned import seeded
from jobs.train_mini.drawing import draw_at
from jobs.train_mini.embedding import GRID, embed
from jobs.train_mini.networks import TEXT_WIDTH, new_stage_b
from jobs.train_mini.progress import Average, Journal, noised, optimizers, per_image, rate_at, resume, save
from jobs.train_mini.stage_a import trained_stage_a
from jobs.train_mini.world import Scene, any_scene

BATCH, WINDOW, NOISINGS = 8, 32, 3
"""A window is 32 x 32 of Stage B's first level, 256 px. Each serves with several noises: it costs more than a step."""
EMBEDDING_NOISE = 0.15
MARGIN = 2
"""Cells of the first level around a window that Stage A sees, so that no false border gets into the latents."""
EVERY = 200
STEPS = 10


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
        self.device = device
        self.stage_a = trained_stage_a(out).to(device)
        self.scale = self.stage_a.config.scale_factor
        self.net = new_stage_b().to(device)

    def batch(self, rng: Random) -> tuple[Tensor, Tensor]:
        """Latents (batch, 4, 2·32, 2·32) of variance 1, and the stretched embedding's windows (batch, 16, 32, 32)."""
        scenes = [any_scene(rng) for _ in range(BATCH)]
        windows = [window_of(scene, rng) for scene in scenes]
        pixels = np.stack([windowed_pixels(s, *w) for s, w in zip(scenes, windows, strict=True)])
        with torch.no_grad(), torch.autocast(self.device, torch.bfloat16):
            edge = 2 * MARGIN
            latents = self.stage_a.encode(torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.device))
            latents = latents[:, :, edge:-edge, edge:-edge].float() / self.scale
        embeddings = embed(scenes, 1024, 1024)
        amount = EMBEDDING_NOISE * torch.rand(BATCH, 1, 1, 1)
        embeddings = embeddings + amount * torch.randn_like(embeddings)
        stretched = resize(embeddings.permute(0, 2, 3, 1), GRID, GRID).permute(0, 3, 1, 2)
        cut = [
            whole[:, top : top + WINDOW, left : left + WINDOW]
            for whole, (top, left) in zip(stretched, windows, strict=True)
        ]
        return latents, torch.stack(cut).to(self.device)

    def predict(self, seen: Tensor, embeddings: Tensor, ratios: Tensor) -> Tensor:
        pooled = torch.zeros(len(seen), TEXT_WIDTH, device=self.device)
        prepared = self.net.prepare(
            pooled, embeddings, ratios.to(self.device), (seen.shape[2], seen.shape[3])
        )
        modulations = per_image(prepared.modulations, len(seen))
        return self.net.step(seen, Prepared({}, modulations, prepared.image_map), 0)

    def loss(self, rng: Random) -> Tensor:
        """The velocity's mean squared error."""
        latents, embeddings = (part.repeat(NOISINGS, 1, 1, 1) for part in self.batch(rng))
        ratios = torch.rand(len(latents)) ** 0.7
        seen, velocity = noised(latents, signal_share(ratios).to(self.device))
        with torch.autocast(self.device, torch.bfloat16):
            predicted = self.predict(seen, embeddings, ratios)
        return (predicted - velocity).square().mean()

    @torch.no_grad()
    def decibels(self) -> float:
        """How close pictures rendered from true embeddings come to Stage A's own, on the same windows each time."""
        state = torch.get_rng_state()
        torch.manual_seed(7)
        latents, embeddings = self.batch(Random(77))
        schedule = make_schedule(STEPS)
        rendered = denoise(
            lambda seen, step: self.predict(seen, embeddings, schedule.ratios[step].expand(BATCH)),
            schedule,
            ImageNoise(range(BATCH), (4, latents.shape[2], latents.shape[3]), self.device),
            [0.0] * BATCH,
            self.net.config.prediction_type,
        )
        torch.set_rng_state(state)
        error = (self.stage_a.decode(rendered) - self.stage_a.decode(latents)).square().mean()
        return round(-10 * torch.log10(error).item(), 2)


def train(out: Path, steps: int, seed: int, rate: float) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    seeded(seed)
    training = StageBTraining(out, device)
    steppers, average = optimizers([training.net], rate), Average([training.net])
    first, seconds = resume(out / "stage_b.pt", average, steppers)
    rng, journal = seeded(seed + first), Journal(out / "stage_b.log", seconds)
    seen = 0.0
    for step in range(first, steps):
        for group in (group for stepper in steppers for group in stepper.param_groups):
            group["lr"] = rate * rate_at(step, steps)
        loss = training.loss(rng)
        loss.backward()
        nn.utils.clip_grad_norm_(training.net.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        average.update(step)
        seen += loss.item() / EVERY
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            journal.write(step=step + 1, loss=round(seen, 5), psnr=training.decibels())
            save(out / "stage_b.pt", step + 1, journal.seconds, average, steppers)
            seen = 0.0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/mini"))
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.out, arguments.steps, arguments.seed, arguments.rate)
