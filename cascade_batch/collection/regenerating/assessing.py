"""Every image that a table asks for beside what a collection has: what would be reused, decoded, rendered, dropped."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cascade_batch.collection.editions import Edition
from cascade_batch.collection.place import Collection
from cascade_batch.collection.regenerating import asking
from cascade_batch.collection.regenerating.asking import Asked
from cascade_batch.collection.regenerating.comparing import Before, before, states
from cascade_batch.collection.regenerating.in_process import InProcess
from cascade_batch.collection.regenerating.keying import key_table, row_ranges
from cascade_batch.collection.regenerating.known import Known
from cascade_batch.collection.regenerating.missing import Missing, missing
from cascade_batch.collection.regenerating.spool import Spool
from cascade_batch.model.sampling import guides
from cascade_batch.model.stages import PerPool
from cascade_batch.pipeline.runners.runner import Runner, Tables
from cascade_batch.plan.planning import ImageGroup
from cascade_batch.workers.keying import Keying

ALONE = 20_000
"""Prompts that one process has keyed before others have started."""
RAY_ABOVE = 5_000_000
"""Prompts from which on keys are made and joined by Ray Data, where the runner has a cluster."""


@dataclass(frozen=True)
class Options:
    """How a regeneration goes about it."""

    name: str | None = None
    """Of the edition: a second regeneration of this name does nothing."""
    bits: bool = False
    """Whether a known picture must have been made with equal numerics, and not only of equal values."""
    retry_failed: bool = True
    """Whether images that failed before are rendered again."""
    keep_stale: bool = False
    """Whether an image that fails shows its last good picture."""
    allow_empty: bool = False
    """Whether a table without prompts may withdraw everything."""

    def to_json(self) -> dict[str, str | bool]:
        return {
            "reuse": "bits" if self.bits else "keys",
            "retry_failed": "always" if self.retry_failed else "never",
            "keep_stale": self.keep_stale,
        }


@dataclass(frozen=True)
class Assessment:
    """A table, keyed, and a collection at one version of its table."""

    asked: Asked
    collection: Collection
    last: Edition | None
    version: int
    """Of the collection's table: what the images are compared with."""
    dtypes: PerPool[str]
    weights: Mapping[str, str]
    spool: Spool
    earlier: Before
    options: Options
    tables: Tables
    bits: Mapping[str, object]
    """What `Known.bits` are."""

    def known(self) -> Known:
        """What the collection has by now."""
        collection = self.collection
        known = collection.known
        return Known(collection.storage, known, known.version(), self.tables, self.bits)

    def states(self, known: Known) -> np.ndarray:
        """The `State` of every image."""
        return states(self.spool, known, self.earlier, self.options.retry_failed)

    def missing(self, found: np.ndarray, failed: set[str]) -> Missing:
        """What is to be rendered of images in these states."""
        return missing(self.spool, found, failed)


def assess(
    asked: Asked,
    collection: Collection,
    last: Edition | None,
    make_runner: Callable[[], Runner],
    options: Options,
    spool: Spool,
) -> Assessment:
    """Key the table into the spool.

    Raises:
        CascadeError: bad input, weights or storage.
    """
    version = collection.table.version()
    dtypes = asking.settled_dtypes(asked, _dtypes_before(collection, last), make_runner)
    weights = asking.settled_weights(asked, last, make_runner)
    keying = Keying.of(asked.spec, asked.table, asked.model, weights, dtypes)
    ranges = row_ranges(asked.table, asked.spec.prompts.limit)
    tables = _tables(sum(r.rows for r in ranges), make_runner)
    key_table(keying, ranges, spool, tables)
    earlier = before(collection.table, version, spool.columns(["image_id"])["image_id"])
    bits = asking.wanted_bits(asked, make_runner) if options.bits else {}
    return Assessment(
        asked, collection, last, version, dtypes, weights, spool, earlier, options, tables, bits
    )


def _tables(prompts: int, make_runner: Callable[[], Runner]) -> Tables:
    """Who makes keys and joins them: the cluster, if there is one, for what one machine would hold badly."""
    if prompts <= ALONE:
        return InProcess(processes=1)
    cluster = make_runner().tables() if prompts > RAY_ABOVE else None
    return cluster or InProcess()


def _dtypes_before(collection: Collection, last: Edition | None) -> list[PerPool[str]]:
    """Of the newest edition, else of the newest run that was imported."""
    if last is not None:
        return [PerPool(**last.dtypes)]
    told = (commit.metadata.get("dtypes") for commit in collection.known.history())
    return [PerPool(**dtypes) for dtypes in told if dtypes]


def groups_of(images: pa.Table) -> dict[ImageGroup, int]:
    """Images of each kind, as a plan counts them; of a table with our columns."""
    sizes = [images[name].to_pylist() for name in ("width", "height")]
    stages = []
    for stage in ("prior", "decoder"):
        stages.append(images[f"{stage}_steps"].to_pylist())
        stages.append(guides(images[f"{stage}_guidance_scale"].to_numpy()).tolist())
    return dict(Counter(ImageGroup(*values) for values in zip(*sizes, *stages, strict=True)))
