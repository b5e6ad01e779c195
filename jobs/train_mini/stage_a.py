"""Train Stage A, the autoencoder between pixels and latents of a quarter of their size.

`python -m jobs.train_mini.stage_a --out build/mini`; the same command goes on after a stop. Learns from crops of
full-size pictures, without the quantizer, which rendering never uses; the codebook is then a sample of
latents. At the end latents are scaled to variance 1, and `scale_factor` in the config undoes it.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cascade_batch.models.stage_a import MixingBlock, StageA
from jobs.train_mini.captioned import seeded
from jobs.train_mini.drawing import draw_at
from jobs.train_mini.networks import MINI_STAGE_A
from jobs.train_mini.progress import Average, Journal, optimizers, rate_at, resume, save
from jobs.train_mini.world import any_scene

BATCH, CROP = 8, 128
LATENT_NOISE = 0.05
"""Noise on the latents while training, relative to their spread, so that near misses look alike."""
EVERY = 200


def crops(rng: Random, count: int, side: int = CROP) -> Tensor:
    """Windows of `side` pixels out of 1024 px pictures, most of them on an object's edge: (count, 3, side, side)."""
    return torch.from_numpy(np.stack([_crop(rng, side) for _ in range(count)])).permute(0, 3, 1, 2)


def _crop(rng: Random, side: int) -> np.ndarray:
    scene = any_scene(rng)
    thing = rng.choice(scene.things)
    x, y = rng.choice(thing.centres)
    reach = thing.radius * 1.2
    left = int((x + rng.uniform(-reach, reach)) * 1024 - side / 2)
    top = int((y + rng.uniform(-reach, reach)) * 1024 - side / 2)
    left, top = (min(max(0, edge), 1024 - side) // 4 * 4 for edge in (left, top))
    ys, xs = ((edge + np.arange(side) + 0.5) / 1024 for edge in (top, left))
    return draw_at(scene, ys, xs, 1.0)


def new_stage_a() -> StageA:
    """Gates start open: zeros, as published networks start, would hold the branches back for long."""
    net = StageA(MINI_STAGE_A)
    for block in net.modules():
        if isinstance(block, MixingBlock):
            block.gammas.data.copy_(torch.tensor([0.0, 0.0, 0.3, 0.0, 0.0, 0.3]))
    return net


def train(out: Path, steps: int, seed: int, rate: float) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    seeded(seed)
    net = new_stage_a().to(device).train()
    steppers, average = optimizers([net], rate), Average([net])
    first, seconds = resume(out / "stage_a.pt", average, steppers)
    rng, journal = seeded(seed + first), Journal(out / "stage_a.log", seconds)
    for step in range(first, steps):
        for group in (group for stepper in steppers for group in stepper.param_groups):
            group["lr"] = rate * rate_at(step, steps)
        pixels = crops(rng, BATCH).to(device)
        latents = net.encode(pixels)
        decoded = net.decode(latents + LATENT_NOISE * torch.randn_like(latents))
        loss = (decoded - pixels).square().mean() + 0.1 * (decoded - pixels).abs().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        average.update(step)
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            decibels = -10 * torch.log10((decoded - pixels).square().mean()).item()
            journal.write(step=step + 1, loss=round(loss.item(), 5), psnr=round(decibels, 2))
            save(out / "stage_a.pt", step + 1, journal.seconds, average, steppers)
    average.swap()
    finish(net.cpu().eval(), out, rng, journal)


@torch.no_grad()
def finish(net: StageA, out: Path, rng: Random, journal: Journal) -> None:
    """Measure the latents, set scale and codebook, write the weights."""
    pixels = crops(rng, 64, 256)
    latents = net.encode(pixels)
    error = (net.decode(latents).clamp(0, 1) - pixels).square().mean()
    scale = round(latents.std().item(), 4)
    net.vquantizer.embedding.weight.copy_(
        latents.transpose(0, 1).flatten(1).T[::251][: MINI_STAGE_A.num_vq_embeddings]
    )
    journal.write(psnr=round(-10 * torch.log10(error).item(), 2), scale_factor=scale)
    state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    save_file(state, out / "stage_a.safetensors", metadata={"scale_factor": str(scale)})


def trained_stage_a(out: Path) -> StageA:
    """The finished Stage A, which decodes latents of variance 1."""
    with safe_open(out / "stage_a.safetensors", "pt") as stored:
        scale = float(stored.metadata()["scale_factor"])
    net = StageA(replace(MINI_STAGE_A, scale_factor=scale))
    net.load_state_dict(load_file(out / "stage_a.safetensors"))
    return net.eval().requires_grad_(False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/mini"))
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.out, arguments.steps, arguments.seed, arguments.rate)
