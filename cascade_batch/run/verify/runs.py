"""The whole run: every shard of the plan, images that come twice, and objects that nothing names.

Memory holds 8 bytes per image, one shard's tables and a few pictures at a time, besides the listings.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from cascade_batch.errors import IntegrityError
from cascade_batch.run import paths
from cascade_batch.run.ids import hash64, repeated_hashes
from cascade_batch.run.manifest import read_manifest
from cascade_batch.run.run import Run
from cascade_batch.run.shards import Shard
from cascade_batch.run.verify.differences import Difference, Verification
from cascade_batch.run.verify.shards import check_shard, images_folder

READERS = 16
"""Pictures read at once; they are small, so latency decides."""


def verify(run: Run, progress: Callable[[int, int], None] | None = None) -> Verification:
    """Compare everything that is committed with the plan and with itself. Reads only.

    Args:
        progress: told after each shard how many are checked, and how many there are.

    Raises:
        IntegrityError: the plan is not the one that run.json describes.
        StorageError: the store failed; that is never counted as damage.
    """
    _check_plan(run)
    plan = [Shard(**row) for row in run.shards.to_pylist()]
    # Before any shard is read: a shard that is committed from now on is simply not done yet.
    manifests, embeddings = _keys(run, paths.MANIFEST), _keys(run, paths.EMBEDDINGS)
    result = Verification(len(plan), run.images)
    result.add(_strays(run, plan, manifests, embeddings))
    hashes: dict[int, np.ndarray] = {}
    with ThreadPoolExecutor(READERS) as readers:
        for checked, planned in enumerate(plan, 1):
            done = paths.manifest_key(planned.shard) in manifests
            embedded = paths.embeddings_key(planned.shard) in embeddings
            found = check_shard(run, planned, done, embedded, readers)
            result.add(found.differences)
            result.shards_done += done
            result.images_checked += found.images_checked
            if found.is_damaged:
                result.damaged_shards.append(planned.shard)
            if found.image_ids is not None:
                hashes[planned.shard] = hash64(found.image_ids.combine_chunks())
            if progress:
                progress(checked, len(plan))
    result.add(_duplicates(run, hashes))
    return result


def _check_plan(run: Run) -> None:
    """What a damaged plan would hide: shards that are looked for nowhere."""
    shards = run.shards["shard"].to_pylist()
    got = {"shards": len(shards), "images": sum(run.shards["images"].to_pylist())}
    expected = {"shards": run.record.plan.shards, "images": run.record.plan.images}
    if got != expected or shards != list(range(len(shards))):
        raise IntegrityError(
            "the plan is not the one the run was begun with",
            where=f"{run.storage.uri}/{paths.PLAN}",
            got=got,
            expected=expected,
            next_step=f"delete {paths.PLAN}: the render command makes it again from the prompt table",
        )


def _keys(run: Run, folder: str) -> set[str]:
    return {info.key for info in run.storage.list(folder)}


def _strays(run: Run, plan: list[Shard], manifests: set[str], embeddings: set[str]) -> Iterator[Difference]:
    """Objects that belong to no shard of the plan; what lies among a shard's pictures is its own check's."""
    names = [planned.shard for planned in plan]
    strays = manifests - {paths.manifest_key(shard) for shard in names}
    strays |= embeddings - {paths.embeddings_key(shard) for shard in names}
    folders = {images_folder(shard) for shard in names}
    pictures = (info.key for info in run.storage.list(paths.IMAGES))
    strays |= {key for key in pictures if "/".join(key.split("/")[:2]) + "/" not in folders}
    return (Difference("orphan", key, "no shard of the plan has it") for key in sorted(strays))


def _duplicates(run: Run, hashes: dict[int, np.ndarray]) -> Iterator[Difference]:
    """Images with more than one row in the run: found by hash, proven by the ids themselves."""
    repeated = repeated_hashes(hashes.values())
    shards_of: dict[str, list[int]] = {}
    for shard, hashed in hashes.items() if len(repeated) else ():
        rows = np.flatnonzero(np.isin(hashed, repeated))
        if len(rows):
            ids = read_manifest(run.storage, shard)["image_id"].take(pa.array(rows))
            for image_id in ids.to_pylist():
                shards_of.setdefault(image_id, []).append(shard)
    for image_id, shards in shards_of.items():
        if len(shards) > 1:
            key = paths.manifest_key(shards[-1])
            yield Difference(
                "duplicate", key, f"{image_id} has more than one row", shards[-1], f"shards {shards}"
            )
