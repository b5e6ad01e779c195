"""Train Stage A, the autoencoder between pixels and latents of a quarter of their size.

`python -m jobs.train_mini.stage_a --out build/mini`; the same command goes on after a stop. Learns from crops of
full-size pictures, without the quantizer, which rendering never uses; the codebook is then a sample of
latents. At the end latents are scaled to variance 1, and `scale_factor` in the config undoes it.
"""

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cascade_batch.engine.devices import pick_device
from cascade_batch.engine.networks.stage_a import StageA
from jobs.train_mini.drawing import draw_at
from jobs.train_mini.networks import MINI_STAGE_A, new_stage_a
from jobs.train_mini.progress import averaged
from jobs.train_mini.training import Course, Loss, fit, read_course, seeded
from jobs.train_mini.world import any_scene

BATCH, CROP = 8, 128
LATENT_NOISE = 0.05
"""Noise on the latents while training, so that near misses look alike."""


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


class StageATraining:
    def __init__(self, device: str) -> None:
        self.device, self.batch = device, BATCH
        self.net = new_stage_a().to(device).train()
        self.networks: list[nn.Module] = [self.net]

    def draw(self, rng: Random, _done: float) -> Loss:
        pixels = crops(rng, self.batch).to(self.device)
        noise = LATENT_NOISE * torch.randn(self.batch, 4, CROP // 4, CROP // 4, device=self.device)

        def loss(part: slice) -> Tensor:
            error = self.net.decode(self.net.encode(pixels[part]) + noise[part]) - pixels[part]
            return (error.square().sum() + 0.1 * error.abs().sum()) / pixels.numel()

        return loss

    @torch.no_grad()
    def report(self) -> dict[str, object]:
        pixels = crops(Random(77), 2 * self.batch).to(self.device)
        return {"psnr": decibels(self.net.decode(self.net.encode(pixels)) - pixels)}


def decibels(error: Tensor) -> float:
    """Peak signal-to-noise ratio of an error on a scale of 1."""
    return round(-10 * torch.log10(error.square().mean()).item(), 2)


def train(course: Course) -> None:
    seeded(course.seed)
    checkpoint = course.out / "stage_a.pt"
    fit(StageATraining(pick_device()), checkpoint, course)
    net = new_stage_a()
    if averaged(checkpoint, net) == course.steps:
        finish(net.eval(), course.out)


@torch.no_grad()
def finish(net: StageA, out: Path) -> None:
    """Measure the latents, set scale and codebook, write the weights."""
    pixels = crops(Random(78), 64, 256)
    latents = net.encode(pixels)
    scale = round(latents.std().item(), 4)
    net.vquantizer.embedding.weight.copy_(
        latents.transpose(0, 1).flatten(1).T[::251][: MINI_STAGE_A.num_vq_embeddings]
    )
    print(f"{decibels(net.decode(latents).clamp(0, 1) - pixels)} dB, scale_factor {scale}")
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
    train(read_course(__doc__, steps=2200))
