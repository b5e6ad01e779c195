"""The `plan` command: what a table would cost, writing nothing. Needs neither torch nor ray, but for `--calibrate`."""

import math
from dataclasses import dataclass, replace

from cascade_batch.cli.showing import padding_remedy
from cascade_batch.errors import SpecError
from cascade_batch.model.geometry import embedding_side
from cascade_batch.model.stages import STAGES, PerPool
from cascade_batch.pipeline.rates import Configs, Rates, image_flops, measured_in
from cascade_batch.plan import worlds
from cascade_batch.plan.planning import Plan, plan_table
from cascade_batch.plan.pools import Node, Pool, Pools, size_pools
from cascade_batch.prompts import reader_notes
from cascade_batch.run.schemas import EMBEDDING_CHANNELS
from cascade_batch.settings import DEFAULT_BATCH, PoolSpec, Spec
from cascade_batch.weights import Model

NEVER_SHORT = 1e6
"""CPUs and GPUs are asked for by number; a plan assumes that cores suffice."""


@dataclass(frozen=True)
class Speed:
    """What `plan` may be told, or find out, of the images per second; at most one of the first three is given."""

    rate: float | None = None
    rate_from: str | None = None
    calibrate: bool = False
    gpus: int | None = None


def print_plan(spec: Spec, speed: Speed) -> None:
    """Shards, images, bytes, PFLOP, padded share; hours, and the best split of GPUs, only from a measured rate."""
    check_speed(speed)
    table, plan = plan_table(spec)
    model = Model.locate(spec.model).for_conditions(table.conditions)
    configs = Configs.read(model.parts)
    pflop = sum(sum(image_flops(group, configs)) * images for group, images in plan.groups.items()) / 1e15
    print(f"prompts  {plan.prompts:,} in {len(table.files):,} files")
    print(f"images   {plan.images:,} in {plan.shards.num_rows:,} shards")
    print(f"sizes    {_sizes(plan)}")
    if table.conditions:
        print(f"given    {', '.join(table.conditions)}")
    print(f"bytes    {_gigabytes(plan)}")
    print(f"PFLOP    {pflop:,.3g}")
    print(f"padded   {plan.padded.c:.1%} of pool C, {plan.padded.ba:.1%} of pool BA{_assumed(spec)}")
    for note in _notes(plan, table.default_ids, table.null_prompts) + reader_notes(table.carried):
        print(f"note     {note}")
    if warning := worlds.warning(model.parts["stage_c"], table, spec):
        print(f"warning  {warning}")
    if not plan.images:
        print("hours    0: there is nothing to render")
        return
    _print_speed(spec, plan, model, configs, speed)


def plan_lines(plan: Plan, spec: Spec) -> list[str]:
    """What a run of this plan is like, whatever it is a part of."""
    padded = f"{plan.padded.c:.1%} of pool C, {plan.padded.ba:.1%} of pool BA{_assumed(spec)}"
    lines = [f"shards   {plan.shards.num_rows:,}", f"sizes    {_sizes(plan)}", f"bytes    {_gigabytes(plan)}"]
    return [*lines, f"padded   {padded}", *(f"note     {note}" for note in padding_remedy(plan.padded))]


def check_speed(speed: Speed) -> None:
    """Raise SpecError for a rate that is none, or GPUs that cannot be split."""
    if speed.rate is not None and not 0 < speed.rate < math.inf:
        raise SpecError(
            "a rate is images per second", where="--rate", got=speed.rate, expected="more than 0, finite"
        )
    if speed.gpus is not None and speed.gpus < 1:
        raise SpecError("no GPUs to split", where="--gpus", got=speed.gpus, expected="1 or more")
    if speed.gpus is not None and not (speed.rate_from or speed.calibrate):
        raise SpecError(
            "GPUs are split by what an image takes in each pool",
            where="--gpus",
            expected="--rate-from RUN, an earlier run, or --calibrate, on a machine like the workers'",
        )


def _print_speed(spec: Spec, plan: Plan, model: Model, configs: Configs, speed: Speed) -> None:
    if speed.rate:
        print(f"hours    {plan.images / speed.rate / 3600:,.2f} at {speed.rate:,.2f} images/s")
    elif speed.rate_from:
        _print_rates(spec, plan, measured_in(speed.rate_from).rates_of(plan.groups, configs), speed.gpus)
    elif speed.calibrate:
        from cascade_batch.pipeline.calibration import calibrate  # torch: for this flag alone

        _print_rates(spec, plan, calibrate(spec, plan, model).rates_of(plan.groups, configs), speed.gpus)
    else:
        print("hours    unknown: give --rate IMAGES_PER_SECOND, --rate-from RUN or --calibrate")


def _print_rates(spec: Spec, plan: Plan, rates: Rates, gpus: int | None) -> None:
    """What was measured, and the run's hours: with the actors of the spec (1 if open), or those that share the GPUs."""
    measured = (f"{rate.seconds:.3g} s on {', '.join(rate.devices)}" for rate in rates)
    print("measured an image takes pool C {}, pool BA {}".format(*measured))
    if gpus is None:
        rate = min((spec.pools[stage].actors or 1) / rates[stage].seconds for stage in STAGES)
        print(f"hours    {plan.images / rate / 3600:,.2f} at {rate:,.2f} images/s")
        return
    asked = spec.pools.with_each(lambda stage: _fixed(spec.pools[stage]))
    pools = size_pools(asked, spec.model.dtype, [Node(NEVER_SHORT, gpus)], rates.share_c)
    each = PerPool.of(lambda stage: pools[stage].actors / rates[stage].seconds)
    # Actors that share a card are taken to work in turn.
    on_cards = sum(rates[stage].seconds for stage in STAGES if pools[stage].gpus)
    rate = min(*each, gpus / on_cards if on_cards else math.inf)
    hours = plan.images / rate / 3600
    sizes = [_size(stage.label, pools[stage], each[stage]) for stage in STAGES]
    print(f"split    {gpus} GPU{'s' if gpus > 1 else ''}: {'; '.join(sizes)}")
    print(f"hours    {hours:,.2f} at {rate:,.2f} images/s, {hours * gpus:,.2f} GPU-hours")
    print(f"use      {_settings(pools)}")


def _size(label: str, pool: Pool, rate: float) -> str:
    return f"pool {label} {pool.actors} x {pool.gpus:g} GPU, {rate:,.2f} images/s"


def _fixed(pool: PoolSpec) -> PoolSpec:
    """A pool of the size that it needs from the start."""
    return replace(pool, max_actors=None)


def _settings(pools: Pools) -> str:
    """The flags that ask for just these pools."""
    named = pools.named()
    actors = [f"--set pools.{name}.actors={pool.actors}" for name, pool in named.items()]
    return " ".join(actors + [f"--set pools.{n}.gpus={p.gpus:g}" for n, p in named.items() if p.gpus != 1])


def _assumed(spec: Spec) -> str:
    """Where a batch is left to the workers, what the plan counts with."""
    open_pools = [s.label for s in STAGES if not isinstance(spec.pools[s].batch, int)]
    return f" (batch {DEFAULT_BATCH} assumed for {' and '.join(open_pools)})" if open_pools else ""


def _sizes(plan: Plan) -> str:
    counts: dict[tuple[int, int], int] = {}
    for group, images in plan.groups.items():
        counts[group.width, group.height] = counts.get((group.width, group.height), 0) + images
    shown = sorted(counts.items(), key=lambda entry: -entry[1])[:5]
    more = f" and {len(counts) - 5} more" if len(counts) > 5 else ""
    return ", ".join(f"{width} x {height}: {images:,}" for (width, height), images in shown) + more


def _gigabytes(plan: Plan) -> str:
    raw = sum(group.width * group.height * 3 * images for group, images in plan.groups.items())
    cells = sum(embedding_side(g.height) * embedding_side(g.width) * n for g, n in plan.groups.items())
    embeddings = cells * EMBEDDING_CHANNELS * 4  # float32
    return f"at most {raw / 1e9:,.2f} GB of pictures (raw RGB), {embeddings / 1e9:,.2f} GB of embeddings"


def _notes(plan: Plan, default_ids: bool, null_prompts: int | None) -> list[str]:
    notes = padding_remedy(plan.padded)
    if default_ids:
        notes.append(
            "no id column: prompts are named by file and row; inserting rows changes the seeds after them"
        )
    if null_prompts:
        notes.append(f"{null_prompts:,} rows have no prompt and will be failed rows (null_prompt)")
    return notes
