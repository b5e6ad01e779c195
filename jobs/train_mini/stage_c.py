"""Train Stage C, and with it the text tower: from a caption to the embedding of its scene.

`python -m jobs.train_mini.stage_c --out build/mini`; the same command goes on after a stop. Needs
`text.safetensors`.

Where a thing goes is decided at the noisiest times, before anything can be seen: so the first steps train there
alone, and later ones keep a share there. The log's `objects` is the error on cells with objects by time
ratio: at ratio 0.97 to 1 it must fall well below its start within the first thousand steps.
"""

from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cascade_batch.engine.devices import pick_device
from cascade_batch.engine.networks.stage_c import StageC
from cascade_batch.engine.networks.text import TextEncoder
from cascade_batch.engine.schedule import signal_share
from cascade_batch.model.geometry import embedding_side
from jobs.train_mini.captions import caption
from jobs.train_mini.embedding import embed
from jobs.train_mini.networks import new_stage_c, new_text_tower
from jobs.train_mini.tokenizer import make_tokenizer
from jobs.train_mini.training import Course, Loss, fit, noised, per_image, read_course, seeded
from jobs.train_mini.world import Scene, training_scene

BATCH = 32
UNCONDITIONAL = 0.1
"""Share of captions replaced by "", which is what guidance subtracts."""
PLACING = 0.15
"""Share of the training that sees only ratios in `TOP`."""
TOP = (0.97, 1.0)
EARLY = 0.5
"""Share of ratios above 0.88 later on, half of them in `TOP`: what was placed must not be forgotten."""
SIZES = ((768, 768), (640, 640), (512, 512), (384, 384), (1024, 768), (768, 1024), (1280, 768), (768, 1280))
OTHER_SIZES = 0.12
"""Share of batches at a size other than 1024 x 1024, once placing is learned."""
OBJECTS = 4.0
"""How much more cells near objects weigh at first; in the end half of that. With no more, the error on them grew."""
BANDS = ((0.97, 1.0), (0.9, 0.97), (0.6, 0.9), (0.2, 0.6))


def time_ratios(done: float, count: int) -> Tensor:
    """Time ratios of a batch, after a share `done` of the steps."""
    if done < PLACING:
        return torch.empty(count).uniform_(*TOP)
    kind, low = torch.rand(count), torch.zeros(count)
    low[kind < EARLY] = 0.88
    low[kind < EARLY / 2] = TOP[0]
    return low + torch.rand(count) * (1 - low)


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


def captions_of(scenes: list[Scene], rng: Random) -> list[str]:
    return ["" if rng.random() < UNCONDITIONAL else caption(scene, rng) for scene in scenes]


class StageCTraining:
    def __init__(self, out: Path, device: str) -> None:
        tokenizer = make_tokenizer()
        self.tower = new_text_tower(len(tokenizer))
        self.tower.load_state_dict(load_file(out / "text.safetensors"))
        self.net: StageC = new_stage_c()
        self.networks: list[nn.Module] = [self.net, self.tower]
        nn.ModuleList(self.networks).to(device)
        self.text = TextEncoder(self.tower, tokenizer)
        self.device, self.batch = device, BATCH

    def errors(self, scenes: list[Scene], texts: list[str], ratios: Tensor, size: tuple[int, int]) -> Loss:
        """Squared error of the velocity, by image and cell (images, 1, rows, columns)."""
        latents, padded = embed(scenes, *size).to(self.device), self.text.pad(texts)
        seen, velocity = noised(latents, signal_share(ratios).to(self.device))

        def of(part: slice) -> Tensor:
            with torch.autocast(self.device, torch.bfloat16):
                states, pooled = self.text.states({name: ids[part] for name, ids in padded.items()})
                prepared = self.net.prepare(states, pooled, ratios[part].to(self.device))
                predicted = self.net.step(seen[part], per_image(prepared, len(states)), 0)
            return (predicted - velocity[part]).square().mean(1, keepdim=True)

        return of

    def draw(self, rng: Random, done: float) -> Loss:
        other = done > PLACING + 0.1 and rng.random() < OTHER_SIZES
        size = rng.choice(SIZES) if other else (1024, 1024)
        scenes = [training_scene(rng) for _ in range(self.batch)]
        texts = captions_of(scenes, rng)
        errors = self.errors(scenes, texts, time_ratios(done, self.batch), size)
        near = object_cells(scenes, *map(embedding_side, size)).to(self.device)
        weight = 1 + OBJECTS * max(0.5, 1 - done / 0.7) * near
        return lambda part: (errors(part) * weight[part]).sum() / weight.sum()

    @torch.no_grad()
    def report(self) -> dict[str, object]:
        """Error on objects by band of ratios, on the same scenes and noise each time."""
        rng, found = Random(77), {}
        scenes = [training_scene(rng) for _ in range(64)]
        texts = [caption or "a picture" for caption in captions_of(scenes, rng)]
        near = object_cells(scenes, *[embedding_side(1024)] * 2).to(self.device)
        for low, high in BANDS:
            with torch.random.fork_rng():
                torch.manual_seed(7)
                errors = self.errors(scenes, texts, torch.linspace(low, high, 64), (1024, 1024))(slice(None))
            found[f"{low}-{high}"] = round(((errors * near).sum() / near.sum()).item(), 4)
        return {"objects": found}


def train(course: Course) -> None:
    seeded(course.seed)
    # on one CPU core a step with fused attention took 1.17 times as long, forward and backward
    with sdpa_kernel(SDPBackend.MATH):
        fit(StageCTraining(course.out, pick_device()), course.out / "stage_c.pt", course)


if __name__ == "__main__":
    train(read_course(__doc__, steps=14700))
