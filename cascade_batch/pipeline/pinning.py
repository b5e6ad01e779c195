"""What a run holds to from its first rendering on: numerics and weights, in whatever cluster it goes on."""

import json
from dataclasses import replace
from typing import Any

from cascade_batch.errors import SpecError, WeightsError
from cascade_batch.model.numerics import SWITCHES
from cascade_batch.plan.pools import Pools
from cascade_batch.run import paths
from cascade_batch.run.records import create_json, read_json
from cascade_batch.settings import AUTO_BATCH, PROBE_BATCH, DtypeSpec, PoolSpec, PoolsSpec
from cascade_batch.storage import Storage


def settled(pools: PoolsSpec, dtype: DtypeSpec, storage: Storage) -> tuple[PoolsSpec, DtypeSpec]:
    """Batch, threads and dtypes as the run fixed them at first use, whatever device goes on with it.

    Raises SpecError if the spec now says otherwise; `auto` says nothing.
    """
    _check_probe(pools, storage)
    keys = [info.key for info in storage.list(paths.NUMERICS) if paths.is_numerics(info.key)]
    recorded = read_json(storage, keys[0]) if keys else None
    if recorded is None:
        return pools, dtype
    c, ba = recorded["c"], recorded["ba"]
    held = replace(pools, c=_held_to(pools.c, c, "pools.c"), ba=_held_to(pools.ba, ba, "pools.ba"))
    return held, DtypeSpec(c=c["dtype"], ba=ba["dtype"])


def _check_probe(pools: PoolsSpec, storage: Storage) -> None:
    if not storage.create_only and PROBE_BATCH in (pools.c.batch, pools.ba.batch):
        raise SpecError(
            "batches cannot be measured on a store without create-only writes: its workers might disagree",
            where=storage.uri,
            got=f"pools.*.batch={PROBE_BATCH}",
            expected=f"a number, or {AUTO_BATCH}, which takes 4 there",
        )


def _held_to(pool: PoolSpec, recorded: dict[str, Any], name: str) -> PoolSpec:
    for key in ("batch", "threads"):
        wanted = getattr(pool, key)
        if wanted not in (None, AUTO_BATCH, recorded[key]):
            raise SpecError(
                f"{name}.{key} was fixed when this run first rendered; another gives other bytes",
                where=paths.NUMERICS,
                got=wanted,
                expected=recorded[key],
                next_step=f"--set {name}.{key}={recorded[key]}, or choose another --out",
            )
    return replace(pool, batch=recorded["batch"], threads=recorded["threads"])


def numerics_text(pools: Pools) -> str:
    """What `numerics/<device kind>.json` must say. A batch that is not a number is measured (`workers.probing`)."""
    fixed = {
        name: {
            "batch": pool.settings.batch,
            "threads": pool.settings.threads,
            "dtype": pool.settings.dtype,
        }
        for name, pool in (("c", pools.c), ("ba", pools.ba))
    }
    return json.dumps({**fixed, "switches": SWITCHES}, sort_keys=True)


def fixed_weights(storage: Storage, digests: dict[str, str]) -> dict[str, str]:
    """The digests that the run began with. Raises WeightsError if these are others."""
    stored = create_json(storage, paths.WEIGHTS, digests)
    differing = sorted(name for name in digests if stored.get(name) != digests[name])
    if differing:
        raise WeightsError(
            "the weights are not those the run began with",
            where=f"{paths.WEIGHTS}: {', '.join(differing)}",
            got={name: digests[name] for name in differing},
            expected={name: stored.get(name) for name in differing},
            next_step="restore them, or choose another --out",
        )
    return stored
