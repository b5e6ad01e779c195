"""Finding the stored embeddings that a run's images ask for, before anything of it is written."""

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from cascade_batch.errors import SpecError
from cascade_batch.pipeline.pinning import settled
from cascade_batch.pipeline.runners.late import LateRunner
from cascade_batch.prompts import PromptTable
from cascade_batch.run import paths
from cascade_batch.run.records import read_json
from cascade_batch.run.schemas import SOURCES
from cascade_batch.run.shards import Shard
from cascade_batch.run.sources import encode_sources
from cascade_batch.run.stage_keys import KeyMaker
from cascade_batch.run.stored import FOUND, StoredEmbeddings
from cascade_batch.settings import Spec
from cascade_batch.storage import Storage
from cascade_batch.weights import Model
from cascade_batch.workers.keying import KEYED, Keying, keyed_rows

WAVE_IMAGES = 2**16
"""Images that are looked up at once; memory holds their texts."""
KEYERS = 8
"""Shards that are keyed at once: enough to hide a store's latency."""
NAMED = 5
"""Prompts that an error names."""


@dataclass(frozen=True)
class Finder:
    """Where a run takes embeddings from. The runner is asked what decides keys: weights, and the numbers they use."""

    spec: Spec
    storage: Storage
    model: Callable[[Collection[str]], Model]
    """With the parts that a table with these conditions needs."""
    runner: LateRunner
    stored: StoredEmbeddings

    def __call__(self, table: PromptTable, plan: pa.Table) -> bytes:
        """`sources.parquet` of the run.

        Raises:
            SpecError: every image was to be found, and some are not.
        """
        self.stored.find(pa.array([], pa.string()))  # one that is not there is told before weights are read
        keying = self._keying(table)
        missing = _Missing()
        with ThreadPoolExecutor(KEYERS) as keyers:
            data = encode_sources(self._stored_shards(keying, plan, keyers, missing))
        if missing.images:
            raise self._not_found(missing, keying.keys)
        return data

    def _keying(self, table: PromptTable) -> Keying:
        spec, model = self.spec, self.model(table.conditions)
        wanted, dtype = settled(spec.pools, spec.model.dtype, self.storage)
        pools = self.runner.made.size_pools(wanted, dtype, 0.0)
        weights = self.runner.weight_digests(model, read_json(self.storage, paths.WEIGHTS))
        dtypes = pools.map(lambda pool: pool.settings.dtype)
        return Keying.of(spec, table, model, weights, dtypes)

    def _stored_shards(
        self, keying: Keying, plan: pa.Table, keyers: ThreadPoolExecutor, missing: "_Missing"
    ) -> Iterator[pa.Table]:
        """`SOURCES` of each shard whose images are all found; those of others count as missing."""
        for wave in _waves(plan):
            keyed = list(keyers.map(lambda shard: _keyed(keying, shard), wave))
            found = _found(self.stored, pa.concat_tables(keyed)["stage_c_key"].combine_chunks())
            first = 0
            for shard, images in zip(wave, keyed, strict=True):
                here = found.slice(first, images.num_rows)
                first += images.num_rows
                lacking = _lacking(images, here)
                if not len(lacking):
                    yield _sources(shard, images, here)
                elif self.stored.complete:
                    missing.add(images, lacking)

    def _not_found(self, missing: "_Missing", keys: KeyMaker) -> SpecError:
        told = self.stored.explain(missing.first, keys)
        return SpecError(
            "embeddings that the table asks for are not stored",
            where=f"prompts.embeddings_from={self.spec.prompts.embeddings_from}",
            got=f"{missing.images} images without one, of prompts {', '.join(map(repr, missing.prompts))}"
            + (f"; {told}" if told else ""),
            expected="for every image one of the same text, seed, size, conditions, weights and settings of Stage C",
            next_step="leave these prompts or --embeddings-from out; decoder_* settings and columns, Stage B and "
            "Stage A may differ, also its noise (column decoder_latents), but a seed is of both stages",
        )


@dataclass
class _Missing:
    images: int = 0
    prompts: list[str] = field(default_factory=list)
    """The first ones."""
    first: dict[str, Any] = field(default_factory=dict)
    """Of `KEYED`."""

    def add(self, images: pa.Table, lacking: np.ndarray) -> None:
        self.images += len(lacking)
        self.first = self.first or images.slice(lacking[0], 1).to_pylist()[0]
        ids = images["prompt_id"].take(pa.array(lacking)).to_pylist()
        self.prompts = list(dict.fromkeys([*self.prompts, *ids]))[:NAMED]


def _waves(plan: pa.Table) -> Iterator[list[Shard]]:
    wave, images = [], 0
    for row in plan.to_pylist():
        wave.append(Shard(**row))
        images += row["images"]
        if images >= WAVE_IMAGES:
            yield wave
            wave, images = [], 0
    if wave:
        yield wave


def _keyed(keying: Keying, shard: Shard) -> pa.Table:
    """`KEYED` of a shard's images."""
    return keyed_rows(keying, shard.file, shard.first_row, shard.rows, shard).select(KEYED.names)


def _found(stored: StoredEmbeddings, keys: pa.Array) -> pa.Table:
    """`FOUND` of each key; nulls for a key that is null."""
    asked = keys.is_valid().to_numpy(zero_copy_only=False)
    places = pa.array(np.cumsum(asked) - 1, mask=~asked)
    return stored.find(keys.drop_null()).select(FOUND.names).cast(FOUND).take(places)


def _lacking(images: pa.Table, found: pa.Table) -> np.ndarray:
    """Which images ask for an embedding that is not known."""
    asked, known = (
        column.is_valid().to_numpy() for column in (images["stage_c_key"], found["embedding_sha256"])
    )
    return np.flatnonzero(asked & ~known)


def _sources(shard: Shard, images: pa.Table, found: pa.Table) -> pa.Table:
    columns = {
        "shard": pa.array([shard.shard] * images.num_rows, pa.int64()),
        **{name: images[name] for name in ("image_id", "stage_c_key")},
        **{name: found[name] for name in FOUND.names},
    }
    return pa.table({name: columns[name] for name in SOURCES.names}, schema=SOURCES)
