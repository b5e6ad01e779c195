"""The plan of a run: which images make up each shard, and how many of which kind there are.

Planning reads the columns that decide identity and cost, never text or carried columns, and nothing at
all of a file without such columns. It is a pure function of table and spec.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cascade_batch.model.sampling import guides
from cascade_batch.model.stages import PerPool
from cascade_batch.plan.cutting import Cuts, Limits, cut_file
from cascade_batch.prompts import check_carried, open_table
from cascade_batch.prompts.checks import check_values
from cascade_batch.prompts.identity import check_unique, hash_ids
from cascade_batch.prompts.rows import iter_planned, prompt_ids
from cascade_batch.run.loads import Size, SizeLoad, loads_of, most_frequent
from cascade_batch.run.prompt_table import PromptTable
from cascade_batch.run.schemas import MANIFEST_COLUMNS, PLAN
from cascade_batch.settings import DEFAULT_BATCH, PoolSpec, RenderSpec, Spec

THREADS = 8
"""Files read at a time: enough to hide a store's latency, few enough for little memory."""


@dataclass(frozen=True, order=True)
class ImageGroup:
    """What an image costs: its size in pixels, steps, and whether each stage also runs the unguided half."""

    width: int
    height: int
    prior_steps: int
    prior_guided: bool
    decoder_steps: int
    decoder_guided: bool


@dataclass(frozen=True)
class Plan:
    """All shards (`run.schemas.PLAN`), and the totals that a cost estimate needs."""

    shards: pa.Table
    prompts: int
    images: int
    groups: dict[ImageGroup, int]
    """Images of each kind."""
    slots: PerPool[int]
    """Places in the batches of each pool, padding included; `assumed_batch` where the workers are to choose."""
    loads: PerPool[tuple[SizeLoad, ...]]
    """What each pool renders of the most frequent sizes, for choosing a batch."""

    @property
    def sizes(self) -> set[tuple[int, int]]:
        """All (width, height) in pixels."""
        return {(group.width, group.height) for group in self.groups}

    @property
    def padded(self) -> PerPool[float]:
        """Share of each pool's places that hold no image."""
        return self.slots.map(lambda slots: 1 - self.images / slots if slots else 0.0)


def make_plan(table: PromptTable, spec: Spec) -> Plan:
    """Check the table's values and ids, and cut its first `prompts.limit` prompts into shards.

    Uses `prompts.limit`, `render`, `shards` and the pools' batch sizes of the spec.

    Raises:
        PromptTableError: a value out of range, a null id, or two prompts of one id; file and row are named.
        IntegrityError: a file has changed since the table was opened.
    """
    limits = _rows_to_plan(table, spec.prompts.limit)
    with_ids = any("id" in file.planned for file in table.files)  # default ids alone cannot clash

    def plan_file(index: int) -> _FilePlan:
        return _plan_file(table, index, limits[index], spec, with_ids)

    with ThreadPoolExecutor(THREADS) as pool:
        files = list(pool.map(plan_file, range(len(limits))))
    check_unique(table, [file.hashes for file in files])
    groups = sum((file.groups for file in files), Counter[ImageGroup]())
    return Plan(
        shards=_shards(table, [file.cuts for file in files]),
        prompts=sum(limits),
        images=groups.total(),
        groups=dict(sorted(groups.items())),
        slots=PerPool.of(lambda stage: sum(file.slots[stage] for file in files)),
        loads=PerPool.of(lambda stage: most_frequent(file.loads[stage] for file in files)),
    )


def assumed_batch(pool: PoolSpec) -> int:
    """Images per batch that a plan counts with; what the workers will choose is not known before they run."""
    return pool.batch if isinstance(pool.batch, int) else DEFAULT_BATCH


@dataclass(frozen=True)
class _FilePlan:
    cuts: Cuts
    hashes: np.ndarray
    groups: Counter[ImageGroup]
    slots: PerPool[int]
    loads: PerPool[dict[Size, SizeLoad]]


_COSTS = {
    "width": ("width", np.int32),
    "height": ("height", np.int32),
    "prior_steps": ("prior_steps", np.int32),
    "prior_guidance_scale": ("prior_guided", np.bool_),
    "decoder_steps": ("decoder_steps", np.int32),
    "decoder_guidance_scale": ("decoder_guided", np.bool_),
    "num_images": ("num_images", np.int32),
}
"""Column -> what planning keeps of it."""
_KINDS = tuple(kept for kept, _ in _COSTS.values() if kept != "num_images")
_TOGETHER = PerPool.of(lambda stage: ("width", "height", stage.steps, f"{stage.asked}_guided"))
"""What images of one batch have in common in each pool."""


def _plan_file(table: PromptTable, index: int, rows: int, spec: Spec, with_ids: bool) -> _FilePlan:
    file = table.files[index]
    costs: dict[str, list[np.ndarray]] = {_COSTS[name][0]: [] for name in file.planned if name in _COSTS}
    hashes = []
    for first, batch in iter_planned(table, index, rows) if file.planned else ():
        check_values(table, file, first, batch)
        for name in file.planned:
            if name in _COSTS:
                costs[_COSTS[name][0]].append(_cost(name, batch[name], spec.render))
        if "id" in file.planned:
            hashes.append(hash_ids(prompt_ids(file, first, batch.num_rows, batch["id"])))
    if with_ids and "id" not in file.planned:
        hashes.append(hash_ids(prompt_ids(file, 0, rows, None)))
    values = _filled({name: np.concatenate(pieces) for name, pieces in costs.items() if pieces}, spec.render)
    pixel_bytes = np.broadcast_to(values["width"].astype(np.int64) * values["height"] * 3, rows)
    limits = Limits(spec.shards.prompts, spec.shards.images)
    cuts = cut_file(np.broadcast_to(values["num_images"], rows), pixel_bytes, limits)
    groups, in_pools = _counted(cuts, values, spec.pools.map(assumed_batch))
    slots, loads = in_pools.map(lambda pool: pool[0]), in_pools.map(lambda pool: pool[1])
    return _FilePlan(cuts, np.concatenate([np.empty(0, np.uint64), *hashes]), groups, slots, loads)


def _cost(name: str, column: pa.ChunkedArray, render: RenderSpec) -> np.ndarray:
    default, kind = getattr(render, name), _COSTS[name][1]
    wide = column.cast(pa.float64() if kind is np.bool_ else pa.int64()).fill_null(default).to_numpy()
    return guides(wide) if kind is np.bool_ else wide.astype(kind)


def _filled(values: Mapping[str, np.ndarray], render: RenderSpec) -> dict[str, np.ndarray]:
    """Every cost: (rows,) where the file has the column, else one number, (), the run's default."""
    defaults = {
        kept: np.array(guides(getattr(render, name)) if kind is np.bool_ else getattr(render, name), kind)
        for name, (kept, kind) in _COSTS.items()
    }
    return {**defaults, **values}


def _counted(
    cuts: Cuts, values: Mapping[str, np.ndarray], batches: PerPool[int]
) -> tuple[Counter[ImageGroup], PerPool[tuple[int, dict[Size, SizeLoad]]]]:
    """Images of each kind; in each pool the places that batches of one kind within one shard take, and its loads."""
    rows, images = _rows_of(cuts, values["num_images"])
    shard = np.repeat(np.arange(len(cuts.rows)), cuts.rows) if len(rows) else rows
    varying = [name for name in _KINDS if values[name].ndim]
    entries = pa.table({"shard": shard, "images": images, **{name: values[name][rows] for name in varying}})
    fixed = {name: values[name].item() for name in _KINDS if name not in varying}
    groups: Counter[ImageGroup] = Counter()
    for kind in _totals(entries, varying).to_pylist() if len(rows) else ():
        count = kind.pop("images_sum")
        groups[ImageGroup(**fixed, **kind)] += count
    return groups, PerPool.of(lambda stage: _in_pool(entries, fixed, _TOGETHER[stage], batches[stage]))


def _in_pool(
    entries: pa.Table, fixed: Mapping[str, Any], together: Sequence[str], batch: int
) -> tuple[int, dict[Size, SizeLoad]]:
    """Places of one pool's batches, and its loads by size."""
    table = _totals(entries, ["shard", *(name for name in together if name not in fixed)])
    sums = table["images_sum"].to_numpy()
    width, height, _, guided = (
        np.full(len(sums), fixed[name]) if name in fixed else table[name].to_numpy() for name in together
    )
    return int((-(-sums // batch) * batch).sum()), loads_of(width, height, guided, sums)


def _totals(entries: pa.Table, keys: list[str]) -> pa.Table:
    return entries.group_by(keys).aggregate([("images", "sum")])


def _rows_of(cuts: Cuts, num_images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The row, and the images it has there, of every prompt of every shard; split prompts come again."""
    before = np.cumsum(cuts.rows) - cuts.rows
    rows = np.arange(cuts.rows.sum()) + np.repeat(cuts.first_row - before, cuts.rows)
    images = num_images[rows] if num_images.ndim else np.broadcast_to(num_images, len(rows))
    alone = np.repeat(cuts.rows == 1, cuts.rows)
    return rows, np.where(alone, np.repeat(cuts.images, cuts.rows), images).astype(np.int64)


def _rows_to_plan(table: PromptTable, limit: int | None) -> list[int]:
    """Rows of each file that are among the first `limit` of the table."""
    left = table.rows if limit is None else limit
    rows = []
    for file in table.files:
        rows.append(min(file.rows, left))
        left -= rows[-1]
    return rows


def _shards(table: PromptTable, cuts: list[Cuts]) -> pa.Table:
    counts = [len(c.rows) for c in cuts]
    file = np.repeat(np.arange(len(cuts)), counts)
    paths = pa.array([f.path for f in table.files], pa.string())
    columns = {name: np.concatenate([getattr(c, name) for c in cuts]) for name in Cuts.__dataclass_fields__}
    return pa.table(
        {"shard": np.arange(len(file)), "prompt_file": paths.take(pa.array(file)), "file": file, **columns}
    ).cast(PLAN)


def plan_table(spec: Spec, reserved: Collection[str] = MANIFEST_COLUMNS) -> tuple[PromptTable, Plan]:
    """The prompt table of a new run and its shards; every error of the table is raised here.

    `reserved`: names that the table's own columns must not have.
    """
    table = open_table(spec.prompts, reserved=reserved, out=spec.output.uri)
    check_carried(table)
    return table, make_plan(table, spec)
