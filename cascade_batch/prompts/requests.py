"""From the prompt rows of a shard to its images: one row per image, the run's defaults filled in."""

from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cascade_batch.errors import IntegrityError
from cascade_batch.model.seeds import image_seed
from cascade_batch.run.ids import image_id
from cascade_batch.run.schemas import IMAGE_REQUESTS
from cascade_batch.settings import RenderSpec

DEFAULTED = (
    "negative_prompt",
    "width",
    "height",
    "prior_steps",
    "prior_guidance_scale",
    "decoder_steps",
    "decoder_guidance_scale",
)
"""Columns that every image has and whose null means the run's default."""


class ImageRange(Protocol):
    """The images of a shard, counted from the first image of its first prompt."""

    @property
    def first_image(self) -> int: ...

    @property
    def images(self) -> int: ...


def image_requests(rows: pa.Table, shard: ImageRange, render: RenderSpec, run_seed: int) -> pa.Table:
    """The images of a shard in order (`run.schemas.IMAGE_REQUESTS`); `row` is the index in `rows`.

    Args:
        rows: what `read_rows` gives for the shard's rows.

    Raises:
        IntegrityError: the rows ask for fewer images than the plan says.
    """
    counts = pc.fill_null(rows["num_images"], render.num_images).to_numpy()
    row = np.repeat(np.arange(rows.num_rows), counts)
    index = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    cut = slice(shard.first_image, shard.first_image + shard.images)
    row, index = row[cut], index[cut]
    if len(row) != shard.images:
        raise IntegrityError(
            "prompt rows ask for fewer images than the plan", got=len(row), expected=shard.images
        )
    columns: dict[str, object] = {"image_index": index, "row": row, **_identity(rows, row, index, run_seed)}
    columns["prompt"] = rows["prompt"].take(row)
    columns["conditions"] = pa.nulls(len(row))  # told by whoever reads pictures
    for name in DEFAULTED:
        columns[name] = pc.fill_null(rows[name], getattr(render, name)).take(row)
    return (
        pa.table({name: columns[name] for name in IMAGE_REQUESTS.names}).cast(IMAGE_REQUESTS).combine_chunks()
    )


def _identity(rows: pa.Table, row: np.ndarray, index: np.ndarray, run_seed: int) -> dict[str, list]:
    ids, seeds = rows["prompt_id"].to_pylist(), rows["seed"].to_pylist()
    images = list(zip(row.tolist(), index.tolist(), strict=True))
    return {
        "image_id": [image_id(ids[r], i) for r, i in images],
        "prompt_id": [ids[r] for r, _ in images],
        "seed": [image_seed(run_seed, ids[r], seeds[r], i) for r, i in images],
    }
