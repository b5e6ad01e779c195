"""Delta Lake: one table, its versions, and commits at the version that they were made for."""

from cascade_batch.collection.delta.commits import Commit
from cascade_batch.collection.delta.data_files import DataFile
from cascade_batch.collection.delta.table import Conflict, DeltaTableAt
from cascade_batch.collection.delta.types import cast_for_delta, held_by_delta

__all__ = ["Commit", "Conflict", "DataFile", "DeltaTableAt", "cast_for_delta", "held_by_delta"]
