"""The conditions of a shard's prompts as a table, from the reading step to the pools, and there as batches."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from cascade_batch.model.conditions import CONDITIONS
from cascade_batch.run.stage_keys import SOURCES
from cascade_batch.workers.faults import failure_of
from cascade_batch.workers.rendering import RowResult
from cascade_batch.workers.row_conditions import NO_CONDITIONS, Row, RowConditions

CONDITIONED = pa.schema(
    [
        ("row", pa.int32()),
        ("conditions", pa.string()),
        ("arrays", pa.large_binary()),
        ("error_code", pa.string()),
        ("error_message", pa.string()),
    ]
)
"""One row per prompt of a shard that has conditions; `row` as in `run.schemas.IMAGE_REQUESTS`."""

FETCHES = 8
Read = Callable[[Row], RowConditions]


def read_conditions(rows: pa.Table, requests: pa.Table, names: Sequence[str], read: Read) -> pa.Table:
    """`CONDITIONED` for the prompts among the requests that have a value in one of the named columns.

    Raises StorageError if a store fails for now.
    """
    present = [name for name in names if name in rows.column_names]
    if not present:
        return CONDITIONED.empty_table()
    sizes = {r["row"]: r for r in requests.select(["row", "width", "height"]).to_pylist()}
    with_any = [row for row in sorted(sizes) if any(rows[name][row].is_valid for name in present)]

    def one(row: int) -> dict[str, Any] | None:
        try:
            found = read({name: _value(rows[name][row]) for name in present} | sizes[row])
            if not (found.arrays or found.settings):
                return None
            return {"row": row, "conditions": found.described(), "arrays": _packed(found)}
        except Exception as error:  # noqa: BLE001
            failed = failure_of(error, f"row {row} of the shard")
            return {"row": row, "error_code": failed.error_code, "error_message": failed.error_message}

    with ThreadPoolExecutor(FETCHES) as pool:
        records = [record for record in pool.map(one, with_any) if record is not None]
    return pa.Table.from_pylist(records, schema=CONDITIONED)


def with_conditions(requests: pa.Table, conditioned: pa.Table) -> pa.Table:
    """The requests with their prompts' `conditions`."""
    told = dict(zip(conditioned["row"].to_pylist(), conditioned["conditions"].to_pylist(), strict=True))
    values = pa.array([told.get(row) for row in requests["row"].to_pylist()], pa.string())
    return requests.set_column(requests.schema.get_field_index("conditions"), "conditions", values)


def joined_conditions(of_stage_c: str | None, of_stage_b: str | None) -> str | None:
    """All conditions of an image in one JSON object."""
    if of_stage_c is None or of_stage_b is None:
        return of_stage_c or of_stage_b
    return json.dumps(json.loads(of_stage_c) | json.loads(of_stage_b), sort_keys=True)


def given_of(
    requests: Sequence[Mapping[str, Any]], conditioned: pa.Table | None
) -> tuple[list[RowConditions], dict[int, RowResult]]:
    """The conditions of every image of a shard, and the failures of those whose conditions could not be read."""
    unread, found = _unusable(conditioned), _unpacked(conditioned)
    failed = {image: unread[r["row"]] for image, r in enumerate(requests) if r["row"] in unread}
    return [found.get(r["row"], NO_CONDITIONS) for r in requests], failed


def _unusable(conditioned: pa.Table | None) -> dict[int, RowResult]:
    """Prompt row -> the failure of its images, for conditions that could not be read."""
    records = [] if conditioned is None else conditioned.drop(["arrays"]).to_pylist()
    return {
        record["row"]: RowResult(error_code=record["error_code"], error_message=record["error_message"])
        for record in records
        if record["error_code"] is not None
    }


def _value(scalar: pa.Scalar) -> Any:
    if isinstance(scalar, pa.FixedShapeTensorScalar) and scalar.is_valid:
        return scalar.to_numpy()  # as_py forgets the shape
    return scalar.as_py()


def _packed(found: RowConditions) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **found.arrays)
    return buffer.getvalue()


def _unpacked(conditioned: pa.Table | None) -> dict[int, RowConditions]:
    """Prompt row -> its conditions, of those that could be read."""
    found = {}
    for record in [] if conditioned is None else conditioned.to_pylist():
        if record["arrays"] is not None:
            settings = json.loads(record["conditions"])
            with np.load(io.BytesIO(record["arrays"])) as stored:
                arrays = {name: stored[name] for name in stored.files}
            plain = {k: v for k, v in settings.items() if k not in arrays and k != SOURCES}
            found[record["row"]] = RowConditions(arrays, plain)
    return found


def batch_fields(rows: Sequence[RowConditions]) -> dict[str, Any]:
    """The conditions of a batch's images, which are of one kind: fields of `Conditions` or `DecoderBatch`."""
    arrays = {CONDITIONS[name].field: np.stack([r.arrays[name] for r in rows]) for name in rows[0].arrays}
    settings = {
        CONDITIONS[name].field: tuple(value) if isinstance(value, list) else value
        for name, value in rows[0].settings.items()
    }
    return arrays | settings
