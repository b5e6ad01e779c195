"""A run as it stands on storage, opened for reading."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa

from cascade_batch.errors import IntegrityError, StorageError
from cascade_batch.model.sampling import Sampling
from cascade_batch.model.texts import TextOptions
from cascade_batch.run import paths
from cascade_batch.run.prompt_table import PromptTable
from cascade_batch.run.records import RunRecord, read_json
from cascade_batch.run.schemas import embedding_schema, manifest_schema
from cascade_batch.run.shards import read_plan
from cascade_batch.settings import Spec, sampling_of, text_options_of
from cascade_batch.storage import Storage


@dataclass(frozen=True)
class Run:
    """What `run.json` says, and, read when first asked for, the plan and the weights."""

    storage: Storage
    record: RunRecord
    table: PromptTable
    """That of the record, where it lies now."""
    given_shards: pa.Table | None = field(default=None, repr=False)
    """The plan, for who has it in memory."""

    @property
    def spec(self) -> Spec:
        """As stored, which decides every picture."""
        return self.record.spec

    @property
    def images(self) -> int:
        return self.record.plan.images

    @cached_property
    def shards(self) -> pa.Table:
        """`run.schemas.PLAN`. Raises StorageError if it does not stand yet."""
        return read_plan(self.storage) if self.given_shards is None else self.given_shards

    @cached_property
    def weights(self) -> Mapping[str, str]:
        """sha256 of each part. Raises IntegrityError before the first sitting has told them."""
        weights = read_json(self.storage, paths.WEIGHTS)
        if weights is None:
            raise IntegrityError("not a run", where=self.storage.uri, expected=paths.WEIGHTS)
        return weights

    @property
    def planned(self) -> set[int]:
        """Shard numbers of the plan; a stray object of another number is none of the run's."""
        return set(self.shards["shard"].to_pylist())

    def images_of(self, shards: Set[int]) -> int:
        """Images of these shards together, by the plan."""
        planned = zip(self.shards["shard"].to_pylist(), self.shards["images"].to_pylist(), strict=True)
        return sum(images for shard, images in planned if shard in shards)

    @cached_property
    def sampling(self) -> Sampling:
        return sampling_of(self.spec.sampler)

    @cached_property
    def text(self) -> TextOptions:
        return text_options_of(self.spec.text)

    @property
    def embeddings_schema(self) -> pa.Schema:
        return embedding_schema(self.record.embedding_size, self.record.format)

    @property
    def manifest_schema(self) -> pa.Schema:
        return manifest_schema(self.table.carried)


def read_run_record(storage: Storage) -> RunRecord | None:
    """`run.json`, None if there is none. Raises SpecError for one of no format that we read."""
    tree = read_json(storage, paths.RUN)
    return None if tree is None else RunRecord.from_json(tree, storage.uri)


def open_existing(uri: str) -> Run:
    """A run for reading: status, verify, rates."""
    storage = Storage(uri)
    tree = read_json(storage, paths.RUN)
    if tree is None:
        raise StorageError("there is no run here", where=uri, expected=f"{paths.RUN} in it")
    if not storage.exists(paths.PLAN):
        raise StorageError(
            "the run has no plan yet", where=uri, next_step="repeat the render command, it goes on from here"
        )
    record = RunRecord.from_json(tree, uri)
    run = Run(storage, record, record.table)
    _ = run.shards  # a plan that is damaged is told of here
    return run
