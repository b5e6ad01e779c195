"""One shard: its manifest, its embeddings, every picture's bytes, and what lies there besides."""

import hashlib
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cascade_batch.run import paths
from cascade_batch.run.run import Run
from cascade_batch.run.shards import Shard
from cascade_batch.run.uris import is_elsewhere, locate
from cascade_batch.run.verify.differences import Difference
from cascade_batch.run.verify.embeddings import check_embeddings
from cascade_batch.run.verify.manifests import check_manifest
from cascade_batch.storage import ObjectMissing

_OF_PICTURES = ["status", "shard", "image_uri", "image_bytes", "image_sha256"]


@dataclass
class ShardFindings:
    """What is wrong with one shard, and what a new rendering of it would trip over."""

    differences: list[Difference] = field(default_factory=list)
    blocking: list[str] = field(default_factory=list)
    """Pictures and embeddings to delete before the shard can be rendered again; all keys of this run."""
    image_ids: pa.ChunkedArray | None = None
    """Of a manifest that can be trusted."""
    images_checked: int = 0

    @property
    def is_damaged(self) -> bool:
        return any(difference.kind != "orphan" for difference in self.differences)


def check_shard(run: Run, planned: Shard, done: bool, embedded: bool, readers: Executor) -> ShardFindings:
    """Check all that is committed of one shard; pictures of a shard that is not done are work in progress.

    Args:
        done: its manifest stands.
        embedded: its embedding shard stands.
    """
    # Listed before the manifest is read, so that a picture which a retry writes meanwhile is no orphan.
    listed = [info.key for info in run.storage.list(images_folder(planned.shard))]
    manifest, fault = check_manifest(run, planned) if done else (None, None)
    found = ShardFindings([fault] if fault else [])
    if manifest is not None or embedded:
        _add_damage(found, check_embeddings(run, planned, manifest))
    if manifest is not None:
        _check_images(run, planned, manifest, listed, readers, found)
    elif done:
        # Nothing vouches for the pictures any more. One that is damaged would make the next render write
        # its own beside it and leave an orphan; all of them are rendered again anyway.
        found.blocking += listed
    return found


def images_folder(shard: int) -> str:
    return f"{paths.IMAGES}{paths.shard_name(shard)}/"


def _check_images(
    run: Run,
    planned: Shard,
    manifest: pa.Table,
    listed: list[str],
    readers: Executor,
    found: ShardFindings,
) -> None:
    good = manifest.select(_OF_PICTURES).filter(pc.field("status") == "ok").to_pylist()
    faults = readers.map(lambda row: _picture_fault(run, row), good)
    _add_damage(found, [fault for fault in faults if fault])
    named = {row["image_uri"] for row in good}
    found.differences += [
        Difference("orphan", key, "no manifest row names it", planned.shard)
        for key in listed
        if key not in named
    ]
    found.image_ids = manifest["image_id"]
    found.images_checked = len(good)


def _add_damage(found: ShardFindings, differences: list[Difference]) -> None:
    """Damage in another run is named, but only this run's own objects are ever deleted."""
    found.differences += differences
    found.blocking += [d.key for d in differences if not is_elsewhere(d.key) and d.kind != "missing"]


def _picture_fault(run: Run, row: dict[str, Any]) -> Difference | None:
    uri, shard = row["image_uri"], row["shard"]
    storage, key = locate(run.storage, uri)
    try:
        data = storage.read(key)
    except ObjectMissing:
        return Difference("missing", uri, "no such picture", shard)
    if len(data) != row["image_bytes"]:
        got, expected = f"{len(data)} bytes", f"{row['image_bytes']} bytes"
        return Difference("damaged", uri, "another size than the manifest's", shard, got, expected)
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != row["image_sha256"]:
        return Difference(
            "damaged", uri, "another hash than the manifest's", shard, sha256, row["image_sha256"]
        )
    return None
