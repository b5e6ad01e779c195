"""The embedding space that Stage C paints in and Stage B reads: 16 principal components of soft patches.

A picture is sampled at 8 points per cell on a grid whose corners are the corners of Stage B's latent grid,
because Stage B stretches an embedding corner to corner. Around each cell a 15 x 15 patch, under a Hann window,
is projected on the 16 directions in which the world's patches differ most. So it is a convolution with stride
8, found in closed form. Directions of less variance keep less of it (its square root), so that colour and
place come out of the noise before the finest edges do.

`python -m jobs.train_mini.embedding --out build/mini`: a quarter of a minute.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from cascade_batch.geometry import embedding_side
from jobs.train_mini.captioned import seeded
from jobs.train_mini.drawing import draw_at
from jobs.train_mini.world import Scene, training_scene

CHANNELS, STRIDE, PATCH = 16, 8, 15
GRID = 128
"""Cells of Stage B's first level along 1024 px."""


class Embedder:
    """The fitted convolution."""

    def __init__(self, filters: Tensor, mean: Tensor) -> None:
        self.filters, self.mean = filters, mean

    @classmethod
    def fit(cls, scenes: int = 3000, seed: int = 1) -> "Embedder":
        rng = seeded(seed)
        window = torch.hann_window(PATCH + 2, periodic=False)[1:-1]
        window = torch.outer(window, window)
        window = window / window.sum()
        patches = []
        for _ in range(scenes):
            grid = sample_grid(training_scene(rng), 1024, 1024)
            unfolded = F.unfold(_padded(grid), PATCH, stride=STRIDE)[0].T
            patches.append(unfolded[torch.randperm(len(unfolded))[:48]])
        flat = torch.cat(patches) * window.flatten().repeat(3)
        mean = flat.mean(0)
        _, spreads, directions = torch.pca_lowrank(flat - mean, q=CHANNELS, center=False, niter=6)
        deviations = spreads / len(flat) ** 0.5
        keep = (deviations / deviations[0]) ** 0.5
        rows = directions.T / deviations[:, None] * keep[:, None]
        # Overall variance 1, as the noise has.
        rows = rows / (keep.square().mean().sqrt())
        filters = (rows * window.flatten().repeat(3)).view(CHANNELS, 3, PATCH, PATCH)
        return cls(filters.contiguous(), rows @ mean)

    def __call__(self, grids: Tensor) -> Tensor:
        """Grids (batch, 3, 8(h-1)+1, 8(w-1)+1) of `sample_grid` to embeddings (batch, 16, h, w)."""
        return F.conv2d(_padded(grids), self.filters, stride=STRIDE) - self.mean[:, None, None]

    def of_scenes(self, scenes: list[Scene], height: int, width: int) -> Tensor:
        return self(torch.cat([sample_grid(scene, height, width) for scene in scenes]))

    def save(self, path: Path) -> None:
        save_file({"filters": self.filters, "mean": self.mean}, path)

    @classmethod
    def load(cls, path: Path) -> "Embedder":
        stored = load_file(path)
        return cls(stored["filters"], stored["mean"])


def _padded(grids: Tensor) -> Tensor:
    return F.pad(grids, (PATCH // 2,) * 4, mode="replicate")


def sample_grid(scene: Scene, height: int, width: int) -> Tensor:
    """The scene at 8 points per cell of the embedding of a `height` x `width` picture: (1, 3, rows, columns)."""
    ys, xs = (_places(side) for side in (height, width))
    picture = draw_at(scene, ys, xs, width / height)
    return torch.from_numpy(picture).permute(2, 0, 1)[None]


def _places(side: int) -> np.ndarray:
    cells, latents = embedding_side(side), GRID * side / 1024
    return np.linspace(0.5 / latents, 1 - 0.5 / latents, STRIDE * (cells - 1) + 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/mini"))
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    Embedder.fit(seed=arguments.seed).save(arguments.out / "embedder.safetensors")
