"""Columns of a collection's two tables. No I/O.

URIs are relative to the collection's root; absolute ones lead into runs that were imported.
"""

import pyarrow as pa

from cascade_batch.model.stages import STAGES
from cascade_batch.run.schemas import ASKED, HAPPENED

FORMAT = 1
"""Version of a collection's layout on storage."""

_PICTURE = [
    ("run", pa.string()),
    ("image_uri", pa.string()),
    ("image_bytes", pa.int64()),
    ("image_sha256", pa.string()),
    ("pixel_sha256", pa.string()),
]
_EMBEDDING = [
    ("embedding_uri", pa.string()),
    ("embedding_row", pa.int32()),
    ("embedding_sha256", pa.string()),
]

EDITION = pa.schema(
    [
        ("image_id", pa.string()),
        ("prompt_id", pa.string()),
        ("image_index", pa.int32()),
        *ASKED,
        *HAPPENED,
        ("stale", pa.bool_()),
        *_PICTURE,
        *_EMBEDDING,
        ("stage_c_key", pa.string()),
        ("stage_ba_key", pa.string()),
        ("rendered_in", pa.int64()),
    ]
)
"""Our columns of an edition, one row per image; the prompt table's own columns follow.

`stale`: the picture is the last good one of this image, made for other values than the row's. `rendered_in`: the
edition whose run rendered the picture, null if that run was imported.
"""

BITS = (
    ("device", pa.string()),
    ("batch", pa.int32()),
    ("threads", pa.int32()),
)
"""Of each stage: what decides the bits of a picture besides its key."""

KNOWN = pa.schema(
    [
        ("stage_c_key", pa.string()),
        ("stage_ba_key", pa.string()),
        *_PICTURE,
        *_EMBEDDING,
        *((stage.cost(name), kind) for name, kind in BITS for stage in STAGES),
        ("versions", pa.string()),
        ("encoder", pa.string()),
        ("rendered_in", pa.int64()),
    ]
)
"""What a collection can reuse, one row per picture, or per embedding alone, whose `stage_ba_key` is null."""


def edition_schema(carried: pa.Schema) -> pa.Schema:
    """Schema of an edition: our columns, then the prompt table's own."""
    return pa.schema([*EDITION, *carried])
