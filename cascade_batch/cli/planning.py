"""The `plan` command: what a table would cost, spending nothing. Needs neither torch nor ray."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from cascade_batch import cost, weights, worlds
from cascade_batch.cli.showing import padding_remedy
from cascade_batch.errors import SpecError
from cascade_batch.geometry import embedding_side
from cascade_batch.opening import open_existing, plan_table
from cascade_batch.plan import ImageGroup, Plan
from cascade_batch.schemas import EMBEDDING_CHANNELS
from cascade_batch.spec import Spec
from cascade_batch.stores.manifest import committed_shards, read_manifests
from cascade_batch.workers.parts import extra_parts

_GROUP_COLUMNS = [
    "width", "height", "prior_steps", "prior_guidance_scale", "decoder_steps", "decoder_guidance_scale",
]  # fmt: skip


@dataclass(frozen=True)
class _Configs:
    stage_c: dict
    stage_b: dict
    stage_a: dict
    text_encoder: dict


def print_plan(spec: Spec, rate: float | None, rate_from: str | None) -> None:
    """Shards, images, bytes, PFLOP, padded share; hours only from a measured rate."""
    if rate is not None and rate <= 0:
        raise SpecError("a rate is images per second", where="--rate", got=rate, expected="more than 0")
    table, plan = plan_table(spec)
    parts = weights.locate(spec.model)
    extra_parts(spec.model, table.conditions)
    configs = _configs(parts)
    pflop = sum(sum(_flops(group, configs)) * images for group, images in plan.groups.items()) / 1e15
    print(f"prompts  {plan.prompts:,} in {len(table.files):,} files")
    print(f"images   {plan.images:,} in {plan.shards.num_rows:,} shards")
    print(f"sizes    {_sizes(plan)}")
    if table.conditions:
        print(f"given    {', '.join(table.conditions)}")
    print(f"bytes    {_gigabytes(plan)}")
    print(f"PFLOP    {pflop:,.3g}")
    print(f"padded   {plan.padded_c:.1%} of pool C, {plan.padded_ba:.1%} of pool BA")
    for note in _notes(plan, table.default_ids, table.null_prompts):
        print(f"note     {note}")
    if warning := worlds.warning(parts["stage_c"], table, spec):
        print(f"warning  {warning}")
    if not plan.images:
        print("hours    0: there is nothing to render")
        return
    images_per_second = rate or (_measured_rate(rate_from, spec, plan, configs) if rate_from else None)
    if images_per_second:
        print(f"hours    {plan.images / images_per_second / 3600:,.2f} at {images_per_second:,.2f} images/s")
    else:
        print("hours    unknown: give --rate IMAGES_PER_SECOND or --rate-from RUN")


def _configs(parts: Mapping[str, weights.Part]) -> _Configs:
    names = ("stage_c", "stage_b", "stage_a", "text_encoder")
    return _Configs(**{name: weights.read_config(parts[name]) for name in names})


def _flops(group: ImageGroup, configs: _Configs) -> tuple[int, int]:
    """FLOPs of one image in pool C and in pool BA."""
    height, width = group.height, group.width
    prior = cost.stage_c_flops(configs.stage_c, height, width, group.prior_steps, group.prior_guided)
    decoder = cost.stage_b_flops(configs.stage_b, height, width, group.decoder_steps, group.decoder_guided)
    return (
        prior + cost.text_flops(configs.text_encoder, 2),
        decoder + cost.stage_a_flops(configs.stage_a, height, width),
    )


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
    notes = padding_remedy(plan.padded_c, plan.padded_ba)
    if default_ids:
        notes.append(
            "no id column: prompts are named by file and row; inserting rows changes the seeds after them"
        )
    if null_prompts:
        notes.append(f"{null_prompts:,} rows have no prompt and will be failed rows (null_prompt)")
    return notes


def _measured_rate(uri: str, spec: Spec, plan: Plan, configs: _Configs) -> float:
    """Images per second that this plan's slower pool would do at the seconds per FLOP of an earlier run.

    The earlier run's manifest says what each image took in each pool; actors are those of this spec (1 if open).
    """
    images, groups, seconds = 0, Counter[ImageGroup](), [0.0, 0.0]
    for manifest in _manifests(uri):
        images += manifest.num_rows
        groups.update(_groups(manifest))
        for pool, column in enumerate(("stage_c_seconds", "stage_ba_seconds")):
            seconds[pool] += sum(manifest[column].to_pylist())
    if not images or not all(seconds):
        raise SpecError("that run has rendered nothing to measure", where=uri, expected="committed images")
    actors = (spec.pools.c.actors or 1, spec.pools.ba.actors or 1)
    rates = []
    for pool in (0, 1):
        before = sum(_flops(group, configs)[pool] * n for group, n in groups.items())
        now = sum(_flops(group, configs)[pool] * n for group, n in plan.groups.items())
        rates.append(actors[pool] * plan.images / (seconds[pool] / before * now))
    return min(rates)


def _manifests(uri: str) -> Iterator[pa.Table]:
    run = open_existing(uri)
    for _, manifest in read_manifests(run.storage, sorted(committed_shards(run.storage))):
        yield manifest.filter(pc.field("status") == "ok")


def _groups(manifest: pa.Table) -> Iterator[ImageGroup]:
    for row in manifest.select(_GROUP_COLUMNS).to_pylist():
        width, height, prior_steps, prior_guidance, decoder_steps, decoder_guidance = row.values()
        yield ImageGroup(width, height, prior_steps, prior_guidance > 1, decoder_steps, decoder_guidance > 1)
