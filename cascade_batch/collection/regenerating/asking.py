"""What a regeneration is asked for: a table, a model, and all that decides keys; and whether that is new."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cascade_batch.collection.editions import Edition
from cascade_batch.collection.schemas import EDITION
from cascade_batch.errors import SpecError
from cascade_batch.model.conditions import CONDITIONS, PICTURES
from cascade_batch.model.dtypes import AUTO
from cascade_batch.model.numerics import NUMERICS_VERSION
from cascade_batch.model.stages import STAGES, PerPool
from cascade_batch.pipeline.runners.runner import Runner
from cascade_batch.pipeline.sitting import SHARE_C
from cascade_batch.prompts import PromptTable, open_table
from cascade_batch.run.schemas import MANIFEST_COLUMNS
from cascade_batch.settings import (
    DEFAULT_BATCH,
    PROBE_BATCH,
    Spec,
    binding_fields,
)
from cascade_batch.storage import Storage
from cascade_batch.storage.urls import key_below
from cascade_batch.weights import Model
from cascade_batch.weights.fingerprint import fingerprint
from cascade_batch.weights.local import digests
from cascade_batch.workers.committing import versions

RESERVED = MANIFEST_COLUMNS | set(EDITION.names)
"""Names that the prompt table's own columns must not have."""
NO_IDS = (
    "no id column: prompts are named by file and row, so one inserted row changes the seeds of all that follow it, and "
    "they are rendered anew; give the table ids, or seeds"
)
_DECIDING = ("seed", "prompts.columns", "prompts.limit", "render.", "sampler.", "text.", "model.dtype.")
"""Keys of the spec that decide which images there are, and their keys; the model's files have a fingerprint."""


@dataclass(frozen=True)
class Asked:
    """A table and a model, opened and located; nothing of either has been read yet."""

    spec: Spec
    table: PromptTable
    model: Model
    located: str | None
    """`weights.fingerprint` of the model."""

    @property
    def settings(self) -> str:
        """A hash of the settings that decide which images there are, and their keys."""
        fields = binding_fields(self.spec)
        deciding = {key: value for key, value in fields.items() if key.startswith(_DECIDING)}
        text = json.dumps([deciding, NUMERICS_VERSION, self.table.columns], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def fingerprint(self) -> str | None:
        """Of the table; None where files may have changed that are not its own: the pictures that rows name."""
        has_pictures = any(CONDITIONS[name].kind in PICTURES for name in self.table.conditions)
        return None if has_pictures else self.table.fingerprint


def asked(spec: Spec, collection: str) -> Asked:
    """Raises PromptTableError, SpecError, WeightsError or StorageError for what cannot be opened or located."""
    spec = replace(spec, output=replace(spec.output, uri=collection))
    table = open_table(spec.prompts, reserved=RESERVED, out=collection)
    if key_below(collection, table.root) is not None:
        raise SpecError(
            "the prompts lie in the collection, and are joined there by those of its own runs",
            where=table.root,
            expected="a prompt table outside it",
            next_step="copy the table elsewhere",
        )
    model = Model.locate(spec.model).for_conditions(table.conditions)
    return Asked(spec, table, model, fingerprint(model))


def is_answered(asked: Asked, last: Edition) -> bool:
    """Whether the edition is of this very table, model and settings, told without reading a row."""
    return (
        None not in (asked.located, asked.fingerprint)
        and last.located == asked.located
        and last.table["fingerprint"] == asked.fingerprint
        and last.table["settings"] == asked.settings
    )


def settled_dtypes(
    asked: Asked, before: Sequence[PerPool[str]], make_runner: Callable[[], Runner]
) -> PerPool[str]:
    """By pool: what `auto` is in this collection, which is what it was before, else what the workers take.

    Args:
        before: the dtypes of what the collection has, newest first.
    """
    wanted = asked.spec.model.dtype
    if AUTO not in wanted:
        return PerPool(wanted.c, wanted.ba)
    if not before:
        runner = make_runner()
        pools = runner.size_pools(asked.spec.pools, wanted, SHARE_C)
        before = [pools.map(lambda pool: pool.settings.dtype)]
    held = before[0]
    return PerPool.of(lambda stage: held[stage] if wanted[stage] == AUTO else wanted[stage])


def settled_weights(asked: Asked, last: Edition | None, make_runner: Callable[[], Runner]) -> dict[str, str]:
    """sha256 of every part: those of the last edition while their files stay, else hashed now, where they are."""
    if last is not None and asked.located is not None and last.located == asked.located:
        return dict(last.weights)
    places = [part.uri for part in (*asked.model.parts.values(), *asked.model.loras)]
    if all(Storage(uri).is_local for uri in places):
        return digests(asked.model)
    return make_runner().weight_digests(asked.model)


def wanted_bits(asked: Asked, make_runner: Callable[[], Runner]) -> dict[str, object]:
    """What a known picture must have been rendered with to have the bits that the workers of now would give it.

    Raises SpecError where their batch is not known before they have measured it.
    """
    runner, pools = make_runner(), asked.spec.pools
    sized = runner.size_pools(pools, asked.spec.model.dtype, SHARE_C)
    wanted: dict[str, object] = {"versions": versions()}
    for stage in STAGES:
        pool = sized[stage]
        batch = pool.settings.batch
        if not isinstance(batch, int) and (pool.gpus or batch == PROBE_BATCH):
            raise SpecError(
                "pictures of equal bits need a batch that is known before the workers measure one",
                where=f"pools.{stage.key}.batch",
                got=batch,
                expected="a number",
                next_step=f"--set pools.{stage.key}.batch=N, as the pictures were rendered with, or --reuse keys",
            )
        wanted[stage.cost("device")] = runner.device_kind(pool)
        wanted[stage.cost("batch")] = batch if isinstance(batch, int) else DEFAULT_BATCH
        wanted[stage.cost("threads")] = pool.settings.threads
    return wanted
