"""Stage keys of prompt rows, without rendering them: what a collection compares with what it has."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cascade_batch.model.conditions import of_stage
from cascade_batch.model.stages import C, PerPool, Stage
from cascade_batch.prompts import PromptTable, image_requests, read_rows
from cascade_batch.prompts.requests import ImageRange
from cascade_batch.run.schemas import HAPPENED, IMAGE_REQUESTS
from cascade_batch.run.stage_keys import KeyMaker
from cascade_batch.settings import RenderSpec, Spec, sampling_of, text_options_of
from cascade_batch.weights import Model
from cascade_batch.workers.condition_tables import joined_conditions, read_conditions, with_conditions
from cascade_batch.workers.row_conditions import RowReader

KEYED = pa.schema(
    [*IMAGE_REQUESTS, *HAPPENED[1:], ("stage_c_key", pa.string()), ("stage_ba_key", pa.string())]
)
"""`run.schemas.IMAGE_REQUESTS`, `row` counted in the prompt file. Images that cannot be asked for have an `error_code`,
and no key of the stage that is not given what it needs."""


@dataclass(frozen=True)
class Keying:
    """All that decides keys besides the rows. Travels to whoever makes keys."""

    table: PromptTable
    render: RenderSpec
    seed: int
    keys: KeyMaker
    picture_side: int | None
    """What the image encoder looks at, in pixels; None for a table without pictures for it."""
    picture_pixels: int

    @classmethod
    def of(
        cls, spec: Spec, table: PromptTable, model: Model, weights: Mapping[str, str], dtypes: PerPool[str]
    ) -> "Keying":
        """Of a table under a spec. `weights`: sha256 of each part of the model; `dtypes`: settled ones."""
        return cls(
            table=table,
            render=spec.render,
            seed=spec.seed,
            keys=KeyMaker(weights, dtypes, sampling_of(spec.sampler), text_options_of(spec.text)),
            picture_side=model.picture_side(),
            picture_pixels=spec.limits.picture_pixels,
        )


@dataclass(frozen=True)
class _Images:
    """All images of some rows, as `image_requests` asks for a shard's."""

    images: int
    first_image: int = 0


def keyed_rows(
    keying: Keying, file: int, first_row: int, rows: int, part: ImageRange | None = None
) -> pa.Table:
    """The images of a range of rows of a prompt file: `KEYED`, then the table's own columns.

    `part`: of all of their images, those of one shard.
    Raises PromptTableError, IntegrityError or StorageError as `prompts.read_rows` and a store with pictures do.
    """
    read = read_rows(keying.table, file, first_row, rows)
    part = part or _Images(sum(pc.fill_null(read["num_images"], keying.render.num_images).to_pylist()))
    requests = image_requests(read, part, keying.render, keying.seed)
    keyed = _keyed(requests, PerPool.of(lambda stage: _conditioned(read, requests, keying, stage)), keying)
    for field in keying.table.carried:
        keyed = keyed.append_column(field, read[field.name].take(requests["row"]).cast(field.type))
    place = keyed.schema.get_field_index("row")
    return keyed.set_column(
        place, KEYED.field("row"), pc.call_function("add", [keyed["row"], first_row]).cast(pa.int32())
    )


def _conditioned(rows: pa.Table, requests: pa.Table, keying: Keying, stage: Stage) -> pa.Table:
    names = [c.column for c in of_stage(stage) if c.column in keying.table.conditions]
    reader = RowReader(keying.table.root, keying.picture_side, keying.picture_pixels, stage)
    return read_conditions(rows, requests, names, reader.read)


def _keyed(requests: pa.Table, conditioned: PerPool[pa.Table], keying: Keying) -> pa.Table:
    given = conditioned.map(lambda table: with_conditions(requests, table)["conditions"].to_pylist())
    refusals = PerPool.of(lambda stage: refused(requests, conditioned[stage], stage))
    c_keys, ba_keys = [], []
    for image, request in enumerate(requests.to_pylist()):
        c_key = ba_key = None
        if refusals.c[image] is None:
            request["conditions"] = given.c[image]
            c_key = keying.keys.c(request)
            if refusals.ba[image] is None:
                request["conditions"] = given.ba[image]
                ba_key = keying.keys.ba(request, c_key)
        c_keys.append(c_key)
        ba_keys.append(ba_key)
    failures = [of_c or of_ba or (None, None) for of_c, of_ba in zip(*refusals, strict=True)]
    columns = {
        **{name: requests[name] for name in requests.column_names},
        "conditions": [joined_conditions(*both) for both in zip(*given, strict=True)],
        "error_code": [code for code, _ in failures],
        "error_message": [message for _, message in failures],
        "stage_c_key": c_keys,
        "stage_ba_key": ba_keys,
    }
    return pa.table({name: columns[name] for name in KEYED.names}, schema=KEYED)


def refused(requests: pa.Table, conditioned: pa.Table, stage: Stage) -> list[tuple[str, str] | None]:
    """Of each image, the error code and message if a stage cannot be asked for it.

    `conditioned`: of its rows, as `condition_tables.read_conditions` gives it for the stage.
    """
    unread = conditioned.filter(pc.field("error_code").is_valid())
    codes, messages = unread["error_code"].to_pylist(), unread["error_message"].to_pylist()
    of_row = dict(zip(unread["row"].to_pylist(), zip(codes, messages, strict=True), strict=True))
    found: list[tuple[str, str] | None] = [None] * len(requests)
    if of_row:
        found = [of_row.get(row) for row in requests["row"].to_pylist()]
    if stage == C:
        for image in np.flatnonzero(requests["prompt"].is_null().to_numpy(zero_copy_only=False)).tolist():
            found[image] = ("null_prompt", "the row's prompt is null")
    return found
