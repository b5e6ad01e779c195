"""Column names, types and closed sets of everything a run writes as a table. No I/O.

Our columns are plain Parquet types, so that DuckDB, Polars, pandas and Spark open them as they are.
"""

import math
from collections.abc import Iterable
from typing import TypedDict

import pyarrow as pa

from cascade_batch.errors import IntegrityError
from cascade_batch.model.stages import STAGES

FORMAT = 3
"""Version of a run's layout on storage; a run goes on in the one that it was begun with."""
FORMATS = (2, 3)
"""Those that are read."""

STATUSES = ("ok", "failed")

ERROR_CODES = {
    "null_prompt": "the row has no prompt",
    "nan_output": "the network produced NaN",
    "infinite_output": "the network produced an infinite value",
    "single_colour": "every pixel has the same colour",
    "out_of_memory": "the device ran out of memory even at batch 1",
    "bad_image": "a picture that the row brings along cannot be had or read",
    "bad_condition": "another value of the row cannot be used, or a library refuses the row",
    "worker_died": "the prompt killed its worker in every attempt",
}
"""Why a row failed: the closed set of `error_code`, with what each means."""

PLAN = pa.schema(
    [
        ("shard", pa.int64()),
        ("prompt_file", pa.string()),
        ("file", pa.int32()),
        ("first_row", pa.int64()),
        ("rows", pa.int32()),
        ("first_image", pa.int64()),
        ("images", pa.int32()),
    ]
)

SOURCES = pa.schema(
    [
        ("shard", pa.int64()),
        ("image_id", pa.string()),
        ("stage_c_key", pa.string()),
        ("embedding_uri", pa.string()),
        ("embedding_row", pa.int32()),
        ("embedding_sha256", pa.string()),
    ]
)
"""One row per image of the shards whose embeddings are taken from elsewhere, in the plan's order; an image that cannot
be asked for has neither key nor embedding."""

ASKED = [
    ("prompt", pa.string()),
    ("negative_prompt", pa.string()),
    ("seed", pa.int64()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("prior_steps", pa.int32()),
    ("prior_guidance_scale", pa.float64()),
    ("decoder_steps", pa.int32()),
    ("decoder_guidance_scale", pa.float64()),
    ("conditions", pa.string()),
]
"""`conditions` is JSON: the settings, and sha256 of the arrays, that condition the image on more than text."""

IMAGE_REQUESTS = pa.schema(
    [
        ("image_id", pa.string()),
        ("prompt_id", pa.string()),
        ("image_index", pa.int32()),
        ("row", pa.int32()),
        *ASKED,
    ]
)
"""One row per image of a shard before anything is rendered; `row` counts within the shard's prompts."""


class ImageRequest(TypedDict):
    """A row of `IMAGE_REQUESTS`."""

    image_id: str
    prompt_id: str
    image_index: int
    row: int
    prompt: str | None
    negative_prompt: str
    seed: int
    width: int
    height: int
    prior_steps: int
    prior_guidance_scale: float
    decoder_steps: int
    decoder_guidance_scale: float
    conditions: str | None


HAPPENED = [("status", pa.string()), ("error_code", pa.string()), ("error_message", pa.string())]

COST = (
    ("seconds", pa.float64()),
    ("device", pa.string()),
    ("worker", pa.string()),
    ("batch", pa.int32()),
    ("threads", pa.int32()),
    ("dtype", pa.string()),
)
"""What a stage tells of each image besides its output: busy seconds, and who rendered it under which numerics."""

MANIFEST = pa.schema(
    [
        ("image_id", pa.string()),
        ("prompt_id", pa.string()),
        ("image_index", pa.int32()),
        ("shard", pa.int64()),
        *ASKED,
        *HAPPENED,
        ("prompt_tokens", pa.int32()),
        ("prompt_truncated", pa.bool_()),
        ("attempts", pa.int32()),
        ("image_uri", pa.string()),
        ("image_bytes", pa.int64()),
        ("image_sha256", pa.string()),
        ("pixel_sha256", pa.string()),
        ("embedding_uri", pa.string()),
        ("embedding_row", pa.int32()),
        ("embedding_sha256", pa.string()),
        ("stage_c_key", pa.string()),
        ("stage_ba_key", pa.string()),
        *((stage.cost(name), kind) for name, kind in COST for stage in STAGES),
        ("versions", pa.string()),
        ("numerics", pa.int32()),
        ("encoder", pa.string()),
        ("prompts_sha256", pa.string()),
        ("writer_token", pa.string()),
        ("created_at", pa.timestamp("us", tz="UTC")),
    ]
)
"""Our columns of a manifest shard; the carried columns follow them."""

MANIFEST_COLUMNS = frozenset(MANIFEST.names)

MEASURED = frozenset(
    {
        "attempts",
        *(stage.cost(name) for name in ("seconds", "worker") for stage in STAGES),
        "writer_token",
        "created_at",
    }
)
"""Manifest columns that tell how a sitting went; all others are equal in every run of one spec."""

EMBEDDING_CHANNELS = 16


def check_error_codes(codes: Iterable[str | None]) -> None:
    """Raise IntegrityError for a reason that is none of `ERROR_CODES`; rows that have not failed have None."""
    for code in codes:
        if code is not None and code not in ERROR_CODES:
            raise IntegrityError(
                "a row failed with a code that readers do not know", got=code, expected=", ".join(ERROR_CODES)
            )


def manifest_schema(carried: pa.Schema) -> pa.Schema:
    """Schema of every manifest shard of a run: our columns, then the table's own."""
    return pa.schema([*MANIFEST, *carried])


def embedding_type(size: tuple[int, int] | None, run_format: int = FORMAT) -> pa.DataType:
    """The type of `embedding`: float32 values in (channel, height, width) order.

    Args:
        size: embedding height and width if all images of the run share one: a list of that fixed size; else None:
            a list of any size.
        run_format: runs of format 2 have Arrow tensors instead of lists of fixed size, null in failed rows.
    """
    if not size:
        return pa.list_(pa.float32())
    shape = [EMBEDDING_CHANNELS, *size]
    if run_format == 2:
        return pa.fixed_shape_tensor(pa.float32(), shape)
    return pa.list_(pa.float32(), math.prod(shape))


def embedding_schema(size: tuple[int, int] | None, run_format: int = FORMAT) -> pa.Schema:
    """Schema of every embedding shard of a run; `size` and `run_format` as in `embedding_type`."""
    flat = pa.list_(pa.float32())
    return pa.schema(
        [
            ("image_id", pa.string()),
            ("embedding", embedding_type(size, run_format)),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("pooled", flat),
            ("negative_pooled", flat),
            ("conditions", pa.string()),
            ("stage_c_key", pa.string()),
            ("embedding_sha256", pa.string()),
            *HAPPENED,
            ("prompt_tokens", pa.int32()),
            ("prompt_truncated", pa.bool_()),
            ("attempts", pa.int32()),
            *COST,
            ("prompts_sha256", pa.string()),
            ("writer_token", pa.string()),
        ]
    )
