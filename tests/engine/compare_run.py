"""A finished run beside diffusers: `python -m tests.engine.compare_run RUN`.

Renders every row of the run's table again, one by one, with diffusers' pipelines from the embedded `mini` weights, and
prints by how many levels of 255 the pictures differ. Ends with 1 if any differs by more than 1.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as datasets
import torch
from PIL import Image

from cascade_batch.weights import EMBEDDED
from tests.engine.velocity import their_pipelines


def compare(run: Path) -> int:
    """The largest difference over all pictures, in levels."""
    prior, decoder = their_pipelines(EMBEDDED / "mini")
    worst = 0
    for row in datasets.dataset(run / "table").to_table().to_pylist():
        ours = np.asarray(Image.open(run / row["image_uri"])).astype(int)
        levels = np.abs(ours - their_picture(prior, decoder, row))
        worst = max(worst, int(levels.max()))
        print(
            f"{levels.max():3d} of 255, {(levels > 0).mean():8.4%} of values differ  {row['prompt']}",
            flush=True,
        )
    return worst


def their_picture(prior: Any, decoder: Any, row: dict) -> np.ndarray:
    """The row's picture by diffusers, (height, width, 3)."""

    def generator() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(row["seed"])]

    seen = prior(
        row["prompt"],
        negative_prompt=row["negative_prompt"],
        height=row["height"],
        width=row["width"],
        num_inference_steps=row["prior_steps"],
        guidance_scale=row["prior_guidance_scale"],
        generator=generator(),
    ).image_embeddings
    (picture,) = decoder(
        seen,
        row["prompt"],
        num_inference_steps=row["decoder_steps"],
        guidance_scale=row["decoder_guidance_scale"],
        generator=generator(),
    ).images
    return np.asarray(picture).astype(int)


if __name__ == "__main__":
    torch.set_num_threads(2)
    sys.exit(compare(Path(sys.argv[1])) > 1)
