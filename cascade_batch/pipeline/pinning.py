"""What a run holds to from its first rendering on: numerics and weights, in whatever cluster it goes on."""

from dataclasses import replace

from cascade_batch.errors import SpecError, WeightsError
from cascade_batch.model.numerics import SWITCHES
from cascade_batch.plan.pools import Pools
from cascade_batch.run import paths
from cascade_batch.run.records import Numerics, PoolNumerics, create_json, read_json
from cascade_batch.settings import AUTO_BATCH, PROBE_BATCH, DtypeSpec, PoolSpec, PoolsSpec
from cascade_batch.storage import Storage


def settled(pools: PoolsSpec, dtype: DtypeSpec, storage: Storage) -> tuple[PoolsSpec, DtypeSpec]:
    """Batch, threads and dtypes as the run fixed them at first use, whatever device goes on with it.

    Raises SpecError if the spec now says otherwise; `auto` says nothing.
    """
    _check_probe(pools, storage)
    keys = [info.key for info in storage.list(paths.NUMERICS) if paths.is_numerics(info.key)]
    tree = read_json(storage, keys[0]) if keys else None
    if tree is None:
        return pools, dtype
    fixed = Numerics.from_json(tree)
    held = pools.with_each(lambda stage: _held_to(pools[stage], fixed[stage], f"pools.{stage.key}"))
    return held, DtypeSpec(c=fixed.c.dtype, ba=fixed.ba.dtype)


def _check_probe(pools: PoolsSpec, storage: Storage) -> None:
    if not storage.create_only and PROBE_BATCH in (pools.c.batch, pools.ba.batch):
        raise SpecError(
            "batches cannot be measured on a store without create-only writes: its workers might disagree",
            where=storage.uri,
            got=f"pools.*.batch={PROBE_BATCH}",
            expected=f"a number, or {AUTO_BATCH}, which takes 4 there",
        )


def _held_to(pool: PoolSpec, fixed: PoolNumerics, name: str) -> PoolSpec:
    for key in ("batch", "threads"):
        wanted, recorded = getattr(pool, key), getattr(fixed, key)
        if wanted not in (None, AUTO_BATCH, recorded):
            raise SpecError(
                f"{name}.{key} was fixed when this run first rendered; another gives other bytes",
                where=paths.NUMERICS,
                got=wanted,
                expected=recorded,
                next_step=f"--set {name}.{key}={recorded}, or choose another --out",
            )
    return replace(pool, batch=fixed.batch, threads=fixed.threads)


def numerics_of(pools: Pools) -> Numerics:
    """What these pools hold to. A batch that is not a number is measured (`workers.probing`)."""
    told = pools.map(lambda pool: pool.settings)
    held = told.map(lambda settings: PoolNumerics(settings.batch, settings.threads, settings.dtype))
    return Numerics(held.c, held.ba, SWITCHES)


def fixed_weights(storage: Storage, digests: dict[str, str], known: dict[str, str] | None) -> dict[str, str]:
    """The digests that the run began with, `known` if it has any. Raises WeightsError if these are others."""
    stored = create_json(storage, paths.WEIGHTS, digests) if known is None else known
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
