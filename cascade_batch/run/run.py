"""A run as it stands on storage, opened for reading."""

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cascade_batch.errors import SpecError, StorageError
from cascade_batch.run import loads, paths
from cascade_batch.run.loads import SizeLoad
from cascade_batch.run.prompt_table import PromptTable
from cascade_batch.run.records import read_json
from cascade_batch.run.schemas import FORMATS, embedding_schema, manifest_schema
from cascade_batch.run.shards import read_plan
from cascade_batch.settings import Spec, spec_from_dict
from cascade_batch.storage import Storage


@dataclass(frozen=True)
class Run:
    """A run as it stands on storage."""

    storage: Storage
    spec: Spec
    """As stored, which decides every picture."""
    record: dict[str, Any]
    shards: pa.Table
    table: PromptTable

    @property
    def planned(self) -> set[int]:
        """Shard numbers of the plan; a stray object of another number is none of the run's."""
        return set(self.shards["shard"].to_pylist())

    @property
    def images(self) -> int:
        return self.record["plan"]["images"]

    def images_of(self, shards: Set[int]) -> int:
        """Images of these shards together, by the plan."""
        planned = zip(self.shards["shard"].to_pylist(), self.shards["images"].to_pylist(), strict=True)
        return sum(images for shard, images in planned if shard in shards)

    @property
    def loads(self) -> dict[str, tuple[SizeLoad, ...]]:
        """By pool, "c" and "ba"; empty for runs that were planned before loads were kept."""
        stored = self.record["plan"].get("loads", {})
        return {pool: loads.from_json(stored.get(pool, ())) for pool in ("c", "ba")}

    @property
    def embeddings_schema(self) -> pa.Schema:
        size = self.record["embedding_size"]
        return embedding_schema(tuple(size) if size else None, self.record["format"])

    @property
    def manifest_schema(self) -> pa.Schema:
        return manifest_schema(self.table.carried)


def open_existing(uri: str) -> Run:
    """A run for reading: status, verify, report."""
    storage = Storage(uri)
    record = read_json(storage, paths.RUN)
    if record is None:
        raise StorageError("there is no run here", where=uri, expected=f"{paths.RUN} in it")
    if not storage.exists(paths.PLAN):
        raise StorageError(
            "the run has no plan yet", where=uri, next_step="repeat the render command, it goes on from here"
        )
    check_format(record, uri)
    spec, table = spec_from_dict(record["spec"]), PromptTable.from_json(record["table"])
    return Run(storage, spec, record, read_plan(storage), table)


def check_format(record: dict[str, Any], uri: str) -> None:
    if record.get("format") not in FORMATS:
        raise SpecError(
            f"{paths.RUN} is not one of this program's, or of another version",
            where=uri,
            got=f"format {record.get('format')}",
            expected=f"format {' or '.join(map(str, FORMATS))}",
            next_step="choose another --out",
        )
