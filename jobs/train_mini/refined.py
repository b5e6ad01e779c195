"""Let Stage B do without the depth in its embedding.

`python -m jobs.train_mini.refined --out build/mini` starts from `stage_b.pt` and leaves `refined.pt`. Depth draws
outlines, so Stage B learns from it first; but of all that a cell tells it is the one thing that Stage C paints
roughly. Shape and way to the centre, which Stage C paints well, say the same. First the embedding's mapper
learns to give its old answers without depth, then the whole stage goes on like that.
"""

from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn

from cascade_batch.engine.devices import pick_device
from cascade_batch.engine.networks.blocks import resize
from jobs.train_mini.embedding import DEPTH, GRID, embed
from jobs.train_mini.progress import averaged
from jobs.train_mini.stage_b import StageBTraining
from jobs.train_mini.training import Course, fit, read_course, seeded
from jobs.train_mini.world import Scene, any_scene

MAPPER_STEPS, MAPPER_SCENES, CELLS = 6000, 256, 8192


class RefinedTraining(StageBTraining):
    def __init__(self, out: Path, device: str) -> None:
        super().__init__(out, device)
        averaged(out / "stage_b.pt", self.net)

    def embedded(self, rng: Random) -> tuple[list[Scene], Tensor]:
        scenes, embeddings = super().embedded(rng)
        embeddings[:, DEPTH] = 0
        return scenes, embeddings


def forget_depth(mapper: nn.Sequential, rng: Random) -> float:
    """Teach the embedding's mapper to answer as before without depth; the share of variance that it misses."""
    cells = _cells(rng).to(next(mapper.parameters()).device)
    with torch.no_grad():
        answers = mapper(cells)
        cells[:, DEPTH] = 0
        next(mapper.parameters())[:, DEPTH] = 0
    optimizer = torch.optim.Adam(mapper.parameters())
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=MAPPER_STEPS)
    for _ in range(MAPPER_STEPS):
        some = torch.randint(len(cells), (CELLS,), device=cells.device)
        seen = cells[some] + 0.05 * torch.randn_like(cells[some])
        seen[:, DEPTH] = 0
        (mapper(seen) - answers[some]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        rates.step()
    with torch.no_grad():
        return ((mapper(cells) - answers).square().mean() / answers.var(0).mean()).item()


def _cells(rng: Random) -> Tensor:
    """Cells (n, 16) of stretched embeddings, most of them around things."""
    told = [embed([any_scene(rng)], 1024, 1024) for _ in range(MAPPER_SCENES)]
    cells = torch.cat([resize(e.permute(0, 2, 3, 1), GRID, GRID).flatten(0, 2) for e in told])
    is_near = cells[:, 4:DEPTH].abs().sum(1) > 0
    return torch.cat([cells[is_near], cells[~is_near][::40]])


def train(course: Course) -> None:
    rng, checkpoint = seeded(course.seed), course.out / "refined.pt"
    training = RefinedTraining(course.out, pick_device())
    if not checkpoint.exists():
        missed = forget_depth(training.net.effnet_mapper, rng)
        print(f"without depth the mapper misses {missed:.1%} of the variance of its answers", flush=True)
    fit(training, checkpoint, course)


if __name__ == "__main__":
    train(read_course(__doc__, steps=12500))
