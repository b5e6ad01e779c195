"""Where everything of a run lies, relative to the run's root. No I/O."""

import re
from collections.abc import Iterable

RUN = "run.json"
PLAN = "plan.parquet"
SOURCES = "sources.parquet"
WEIGHTS = "weights.json"
DRIVER = "driver.json"
OUTCOME = "outcome.json"
EMBEDDINGS, IMAGES, MANIFEST, NUMERICS, TABLE = "embeddings/", "images/", "manifest/", "numerics/", "table/"
FOLDERS = (EMBEDDINGS, IMAGES, MANIFEST, NUMERICS, TABLE, "report/")

_SHARD_FILE = re.compile(r"shard-(\d{8,})\.parquet")


def shard_name(shard: int) -> str:
    return f"shard-{shard:08d}"


def embeddings_key(shard: int) -> str:
    return f"{EMBEDDINGS}{shard_name(shard)}.parquet"


def manifest_key(shard: int) -> str:
    return f"{MANIFEST}{shard_name(shard)}.parquet"


def shard_prefixes(folder: str, shards: Iterable[int]) -> list[str]:
    """What the keys of these shards in `folder` begin with, a thousand shards each: as many as S3 lists at once."""
    return sorted({f"{folder}{shard_name(shard)[:-3]}" for shard in shards})


def image_key(shard: int, image_id: str, suffix: str = "") -> str:
    """Key of a picture; `suffix` tells a late, different attempt from the first."""
    return f"{IMAGES}{shard_name(shard)}/{image_id}{suffix}.png"


def numerics_key(device_kind: str) -> str:
    return f"{NUMERICS}{_as_name(device_kind)}.json"


def batches_key(device_kind: str, pool: str) -> str:
    """Key of the batch sizes that workers of this kind measured; `pool` is "c" or "ba"."""
    return f"{NUMERICS}{_as_name(device_kind)}/{pool}.json"


def is_numerics(key: str) -> bool:
    """Whether this is a device kind's numerics, and not its batch sizes in the folder below."""
    return key.startswith(NUMERICS) and "/" not in key.removeprefix(NUMERICS)


def _as_name(device_kind: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", device_kind)


def table_key(part: int) -> str:
    return f"{TABLE}part-{part:05d}.parquet"


def shard_of(key: str) -> int | None:
    """Shard number of an embedding or manifest key, None for any other object."""
    match = _SHARD_FILE.fullmatch(key.rsplit("/", 1)[-1])
    return int(match[1]) if match else None


TABLES_OF_A_RUN = (PLAN, SOURCES, embeddings_key(0), manifest_key(0), table_key(0))
"""The Parquet files of a run, one of each kind."""


def is_written_by_runs(key: str) -> bool:
    """Whether a key below a run's root is the run's to write."""
    return key.startswith(FOLDERS) or key in (RUN, PLAN, SOURCES, WEIGHTS, DRIVER, OUTCOME)
