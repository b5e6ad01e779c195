"""Small collections for tests: real runs of the tiny model, known and shown as a regeneration would have it."""

import shutil
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cascade_batch.collection.columns import is_among
from cascade_batch.collection.editions import REGENERATED, Counts, Edition, editions_of
from cascade_batch.collection.place import Collection, create_or_open, open_collection
from cascade_batch.collection.regenerating.learning import learn, source_of
from cascade_batch.collection.schemas import KNOWN, edition_schema
from cascade_batch.run.ids import image_id
from cascade_batch.run.run import open_existing
from cascade_batch.run.schemas import ASKED
from cascade_batch.settings import spec_to_dict
from cascade_batch.storage import Storage
from tests.run.runs import render

CARRIED = pa.schema([("category", pa.string()), ("scores", pa.list_(pa.float64()))])
SCHEMA = edition_schema(CARRIED)
_TAKEN = [name for name in KNOWN.names if name in SCHEMA.names]

Prompts = Mapping[str, tuple[str, str]]
"""Id -> text and category."""

FIRST: Prompts = {
    f"prompt {i}": (f"a red circle, number {i}", "even" if i % 2 == 0 else "odd") for i in range(6)
}
SECOND: Prompts = {
    **{name: told for name, told in FIRST.items() if name != "prompt 5"},
    "prompt 1": ("a blue circle", "odd"),
    "prompt 6": ("a green circle", "even"),
}
THIRD: Prompts = {**SECOND, "prompt 0": ("a white circle", "even"), "prompt 2": (FIRST["prompt 2"][0], "new")}
FOURTH: Prompts = {**THIRD, "prompt 0": ("a black circle", "even")}
"""Of the run of the third edition nothing lives on, of the first one's a part, of the second one's all."""


def make(uri: str, *editions: Prompts) -> Collection:
    """A collection of these editions, numbered from 1."""
    collection = create_or_open(uri)
    for prompts in editions:
        add(collection, prompts)
    return collection


def add(collection: Collection, prompts: Prompts, *flags: str) -> Edition:
    """Render what is not known, and commit an edition."""
    known = _known(collection)
    run = _render(collection, {id_: text for id_, (text, _) in prompts.items() if text not in known}, *flags)
    rows = [_row(collection, id_, text, category) for id_, (text, category) in prompts.items()]
    return _commit(collection, pa.Table.from_pylist(rows, SCHEMA), run)


def _known(collection: Collection) -> dict[str, dict[str, Any]]:
    """Text -> row of `known` and of its run's manifest; texts are the keys of these collections."""
    found = {}
    for known in collection.known.read(where=pc.field("image_uri").is_valid()).to_pylist():
        found[_manifest(collection, known["run"])[known["image_uri"]]["prompt"]] = known
    return found


def _manifest(collection: Collection, run: str) -> dict[str, dict[str, Any]]:
    table = pq.read_table(
        pa.BufferReader(Storage(collection.storage.url(run)).read("table/part-00000.parquet"))
    )
    return {f"{run}/{row['image_uri']}": row for row in table.to_pylist() if row["image_uri"]}


def _render(collection: Collection, missing: Mapping[str, str], *flags: str) -> str | None:
    if not missing:
        return None
    number = collection.table.version() + 1
    run = f"runs/{number:06d}-{uuid.uuid4().hex[:8]}"
    begin(collection, run, missing)
    uri = collection.storage.url(run)
    assert render(Path(f"{uri}/prompts"), uri, *flags) == 0
    learn(collection, source_of(collection, run, number), uuid.uuid4().hex, {"learnt": run})
    return run


def begin(collection: Collection, run: str, missing: Mapping[str, str]) -> None:
    """The prompt table of a run."""
    table = pa.table({
        "id": [image_id(id_, 0) for id_ in missing],
        "prompt": list(missing.values()),
        "seed": [sum(text.encode()) for text in missing.values()],
    })  # fmt: skip
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    collection.storage.put(f"{run}/prompts/part-0.parquet", sink.getvalue().to_pybytes())


def _row(collection: Collection, prompt_id: str, text: str, category: str) -> dict[str, Any]:
    known = _known(collection)[text]
    asked = _manifest(collection, known["run"])[known["image_uri"]]
    return {
        "image_id": image_id(prompt_id, 0),
        "prompt_id": prompt_id,
        "image_index": 0,
        **{name: asked[name] for name, _ in ASKED},
        "status": "ok",
        "stale": False,
        **{name: known[name] for name in _TAKEN},
        "category": category,
        "scores": [1.0, float("nan")],
    }


def _commit(collection: Collection, rows: pa.Table, run: str | None) -> Edition:
    table, after = collection.table, collection.table.version()
    edition = record(collection, after + 1, rows, run)
    told = {"after": after, "metadata": {"edition": edition.to_json()}, "token": uuid.uuid4().hex}
    if after == 0:
        table.overwrite(rows.to_batches(), SCHEMA, **told)
        return edition
    before = table.read()
    same = {row["image_id"]: _told(row) for row in before.to_pylist()}
    changed = [_told(row) != same.get(row["image_id"]) for row in rows.to_pylist()]
    gone = before["image_id"].filter(pa.array(~is_among(before["image_id"], rows["image_id"])))
    table.merge(rows.filter(pa.array(changed)), gone, on="image_id", **told)
    return edition


def _told(row: Mapping[str, Any]) -> str:
    return repr(row)


def record(collection: Collection, number: int, rows: pa.Table, run: str | None) -> Edition:
    runs = {v["values"]: v["counts"] for v in rows["run"].value_counts().to_pylist()}
    made = open_existing(collection.storage.url(run or next(iter(runs))))
    return Edition(
        number=number,
        kind=REGENERATED,
        name=f"day {number}",
        created=datetime.now(UTC).isoformat(),
        spec=spec_to_dict(made.spec),
        table={"root": "prompts", "prompts": rows.num_rows},
        weights=dict(made.weights),
        located="",
        dtypes={"c": "float32", "ba": "float32"},
        numerics=1,
        versions="cascade-batch 1",
        counts=Counts(images=rows.num_rows, rendered=made.images if run else 0),
        runs=runs,
        run=run,
    )


def rewritten(collection: Collection, changed: pa.Table, **fields: Any) -> Edition:
    """One more edition, in which these rows are otherwise; its record says `fields`."""
    after, last = collection.table.version(), editions_of(collection.table)[0]
    edition = replace(last, number=after + 1, **fields)
    told = {"edition": edition.to_json()}
    none = pa.array([], pa.string())
    collection.table.merge(changed, none, on="image_id", after=after, metadata=told, token=uuid.uuid4().hex)
    return edition


def copied(source: str, target: str) -> Collection:
    if Storage(target).is_local:
        shutil.copytree(source, target)
        return open_collection(target)
    for info in Storage(source).list():
        Storage(target).put(info.key, Storage(source).read(info.key))
    return open_collection(target)


def pictures(collection: Collection, number: int | None = None) -> dict[str, bytes]:
    """Prompt id -> the PNG that an edition shows."""
    rows = collection.table.read(["prompt_id", "image_uri"], version=number).to_pylist()
    return {row["prompt_id"]: collection.storage.read(row["image_uri"]) for row in rows if row["image_uri"]}
