"""Damaged shards back to "not done": what would block a new rendering goes, then the manifest.

Orphans are never deleted: they block nothing, and only their owner knows whether they are wanted.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from cascade_batch.errors import SpecError
from cascade_batch.run import paths
from cascade_batch.run.heartbeat import other_driver
from cascade_batch.run.records import REOPENED, read_outcome, write_outcome
from cascade_batch.run.run import Run
from cascade_batch.run.shards import Shard
from cascade_batch.run.verify.runs import READERS
from cascade_batch.run.verify.shards import check_shard


def refuse_while_rendering(run: Run) -> None:
    """Raise SpecError if a driver is alive on this run: nothing may be deleted under its hands."""
    found = other_driver(run.storage, token="")
    if found:
        host, silence = found
        raise SpecError(
            f"a driver on {host} was alive {silence:.0f} s ago",
            where=run.storage.uri,
            expected="no driver while shards are re-opened",
            next_step="stop it, or wait 30 s if it is dead",
        )


def reopen(run: Run, shards: Iterable[int]) -> list[str]:
    """Take back the shards that are (still) damaged. Returns the keys deleted.

    Raises:
        SpecError: a driver is rendering the run.
    """
    refuse_while_rendering(run)
    # First of all, so that the next sitting derives `table/` anew even if it finds all shards done.
    outcome = read_outcome(run.storage)
    if outcome is not None:
        write_outcome(run.storage, replace(outcome, state=REOPENED))
    deleted: list[str] = []
    with ThreadPoolExecutor(READERS) as readers:
        for shard in shards:
            planned = Shard(**run.shards.slice(shard, 1).to_pylist()[0])
            deleted += _reopen_shard(run, planned, readers)
    return deleted


def _reopen_shard(run: Run, planned: Shard, readers: ThreadPoolExecutor) -> list[str]:
    """Delete what blocks, the manifest last.

    The manifest is the only witness of which bytes are wrong. If it went first and the process died,
    the next render would meet a damaged picture under the key, write its own beside it, and leave an
    orphan. In this order a death leaves the manifest naming objects that are missing, so that the next
    `verify --reopen` finishes, and a render in between leaves the shard alone.
    """
    # Checked again: since the verification, another person may have re-opened and rendered the shard.
    done = run.storage.exists(paths.manifest_key(planned.shard))
    embedded = run.storage.exists(paths.embeddings_key(planned.shard))
    found = check_shard(run, planned, done, embedded, readers)
    if not found.is_damaged:
        return []
    keys = [*found.blocking, *([paths.manifest_key(planned.shard)] if done else [])]
    for key in dict.fromkeys(keys):
        run.storage.delete(key)
    return list(dict.fromkeys(keys))
