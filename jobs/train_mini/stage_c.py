"""Train Stage C, and with it the text tower: from a caption to the embedding of its scene.

`python -m jobs.train_mini.stage_c --out build/mini`; the same command goes on after a stop. Needs
`text.safetensors`.

Where a thing goes is decided at the noisiest times, before anything can be seen: so the first steps train there
alone, and later ones keep a share there. The log's `objects` is the error on cells with objects by time
ratio: at ratio 0.97 to 1 it must fall well below its start within the first thousand steps.
"""

import argparse
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cascade_batch.models.schedule import signal_share
from cascade_batch.models.stage_c import StageC
from cascade_batch.models.unet import Prepared
from jobs.train_mini.captioned import captions_of, seeded, text_states
from jobs.train_mini.embedding import embed
from jobs.train_mini.networks import new_stage_c, new_text_tower
from jobs.train_mini.progress import Average, Journal, noised, optimizers, per_image, rate_at, resume, save
from jobs.train_mini.tokenizer import make_tokenizer
from jobs.train_mini.world import Scene, training_scene

BATCH = 32
PLACING = 0.15
"""Share of the training that sees only ratios in `TOP`."""
TOP = (0.97, 1.0)
SIZES = ((768, 768), (640, 640), (512, 512), (384, 384), (1024, 768), (768, 1024), (1280, 768), (768, 1280))
OTHER_SIZES = 0.12
"""Share of batches at a size other than 1024 x 1024, once placing is learned."""
BANDS = ((0.97, 1.0), (0.9, 0.97), (0.6, 0.9), (0.2, 0.6))
EVERY = 200


def time_ratios(step: int, steps: int, count: int) -> Tensor:
    """Time ratios of a batch."""
    done = step / steps
    if done < PLACING:
        return torch.empty(count).uniform_(*TOP)
    high = 0.5 - 0.25 * min(1.0, (done - PLACING) / (0.5 - PLACING))
    ratios = torch.rand(count)
    return torch.where(torch.rand(count) < high, torch.empty(count).uniform_(0.88, 1.0), ratios)


def object_cells(scenes: list[Scene], rows: int, columns: int) -> Tensor:
    """1 at cells on or next to an object: (scenes, 1, rows, columns)."""
    wide, tall = max(1.0, columns / rows), max(1.0, rows / columns)
    x = torch.linspace(0, wide, columns)[None, None, :]
    y = torch.linspace(0, tall, rows)[None, :, None]
    masks = torch.zeros(len(scenes), rows, columns)
    for mask, scene in zip(masks, scenes, strict=True):
        for thing in scene.things:
            for cx, cy in thing.centres:
                near = ((x - cx * wide) ** 2 + (y - cy * tall) ** 2) < (1.25 * thing.radius + 0.03) ** 2
                mask.copy_(torch.maximum(mask, near[0].float()))
    return masks[:, None]


class StageCTraining:
    def __init__(self, out: Path, device: str) -> None:
        self.tokenizer = make_tokenizer()
        self.tower = new_text_tower(len(self.tokenizer))
        self.tower.load_state_dict(load_file(out / "text.safetensors"))
        self.net: StageC = new_stage_c()
        self.device = device
        nn.ModuleList([self.tower, self.net]).to(device)

    def predict(self, seen: Tensor, texts: list[str], ratios: Tensor) -> Tensor:
        states, pooled = text_states(self.tower, self.tokenizer, texts)
        prepared = self.net.prepare(states, pooled, ratios.to(self.device))
        modulations = per_image(prepared.modulations, len(texts))
        return self.net.step(seen, Prepared(prepared.keys_values, modulations), 0)

    def losses(self, scenes: list[Scene], texts: list[str], ratios: Tensor, size: tuple[int, int]) -> Tensor:
        """Squared error of the velocity, by image and cell (batch, 1, rows, columns)."""
        latents = embed(scenes, *size).to(self.device)
        seen, velocity = noised(latents, signal_share(ratios).to(self.device))
        with torch.autocast(self.device, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            predicted = self.predict(seen, texts, ratios)
        return (predicted - velocity).square().mean(1, keepdim=True)

    def loss(self, rng: Random, step: int, steps: int) -> Tensor:
        other = step / steps > PLACING + 0.1 and rng.random() < OTHER_SIZES
        size = rng.choice(SIZES) if other else (1024, 1024)
        scenes = [training_scene(rng) for _ in range(BATCH)]
        texts = captions_of(scenes, rng)
        errors = self.losses(scenes, texts, time_ratios(step, steps, BATCH), size)
        near = object_cells(scenes, *errors.shape[2:]).to(self.device)
        weight = 1 + 4 * max(0.0, 1 - step / (0.7 * steps)) * near
        return (errors * weight).sum() / weight.sum()

    @torch.no_grad()
    def error_on_objects(self) -> dict[str, float]:
        """By band of ratios, on the same scenes and noise each time."""
        rng = Random(77)
        scenes = [training_scene(rng) for _ in range(64)]
        texts = [caption or "a picture" for caption in captions_of(scenes, rng)]
        state, found = torch.get_rng_state(), {}
        for low, high in BANDS:
            torch.manual_seed(7)
            errors = self.losses(scenes, texts, torch.linspace(low, high, 64), (1024, 1024))
            near = object_cells(scenes, *errors.shape[2:]).to(self.device)
            found[f"{low}-{high}"] = round(((errors * near).sum() / near.sum()).item(), 4)
        torch.set_rng_state(state)
        return found


def train(out: Path, steps: int, seed: int, rate: float, until: int) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    seeded(seed)
    training = StageCTraining(out, device)
    networks = [training.net, training.tower]
    steppers, average = optimizers(networks, rate), Average(networks)
    checkpoint = out / "stage_c.pt"
    first, seconds = resume(checkpoint, average, steppers)
    rng, journal = seeded(seed + first), Journal(out / "stage_c.log", seconds)
    seen, count = 0.0, 0
    for step in range(first, min(until, steps)):
        for group in (group for stepper in steppers for group in stepper.param_groups):
            group["lr"] = rate * rate_at(step, steps)
        loss = training.loss(rng, step, steps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for n in networks for p in n.parameters()], 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        average.update(step)
        seen, count = seen + loss.item(), count + 1
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            journal.write(step=step + 1, loss=round(seen / count, 4), objects=training.error_on_objects())
            save(checkpoint, step + 1, journal.seconds, average, steppers)
            seen, count = 0.0, 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/mini"))
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--until", type=int, default=10**9, help="stop at this step, to go on later")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.out, arguments.steps, arguments.seed, arguments.rate, arguments.until)
