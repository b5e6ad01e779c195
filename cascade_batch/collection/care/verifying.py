"""Whether all that an edition refers to is there, with the bytes that it says. Reads only.

Memory holds the edition's references, a hundred bytes an image, and a few pictures and embedding shards at a time.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cascade_batch.collection.care.living import NOTHING, run_storage
from cascade_batch.collection.columns import is_among
from cascade_batch.collection.editions import Edition
from cascade_batch.collection.place import Collection
from cascade_batch.run import paths as run_paths
from cascade_batch.run.embeddings import embedding_arrays, embedding_sha256
from cascade_batch.run.schemas import ERROR_CODES
from cascade_batch.run.verify.differences import KEPT, Difference
from cascade_batch.run.verify.embeddings import locate
from cascade_batch.run.verify.tables import Fault, read_table
from cascade_batch.storage import ObjectMissing, Storage

READERS = 16
"""Pictures and embedding shards read at once."""
_CHECKED = ["image_id", "prompt_id", "status", "error_code", "stale", "run"]
_PICTURE = ["image_uri", "image_bytes", "image_sha256", "pixel_sha256"]
_EMBEDDING = ["embedding_uri", "embedding_row", "embedding_sha256"]
Progress = Callable[[int, int], None]


@dataclass
class EditionCheck:
    """What is wrong with an edition."""

    edition: Edition
    images: int = 0
    pictures: int = 0
    """That were read back and compared, matching or not."""
    embedding_shards: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """Differences by kind, all of them."""
    differences: list[Difference] = field(default_factory=list)
    """The first `run.verify.differences.KEPT`."""
    damaged: dict[str, list[str]] = field(default_factory=dict)
    """By run, URIs of pictures and embedding shards."""
    gone_runs: dict[str, int] = field(default_factory=dict)
    """Runs that are no more, and how many images of the edition have their picture or embedding in them."""

    @property
    def is_clean(self) -> bool:
        return not self.counts

    def add(self, differences: Iterable[Difference], run: str | None = None) -> None:
        for difference in differences:
            self.counts[difference.kind] += 1
            if len(self.differences) < KEPT:
                self.differences.append(difference)
            if run is not None:
                self.damaged.setdefault(run, []).append(difference.key)


class Verifier:
    """Checks editions of one collection, the pictures that several have only once."""

    def __init__(self, collection: Collection, progress: Progress | None = None) -> None:
        self._collection, self._progress = collection, progress
        self._seen = NOTHING
        self._claims: dict[str, set[tuple[int | None, str]]] = {}
        self._stands: dict[str, bool] = {}

    def check(self, edition: Edition) -> EditionCheck:
        """Raises IntegrityError if the edition's own rows cannot be read, StorageError if the store failed."""
        found = EditionCheck(edition)
        with ThreadPoolExecutor(READERS) as readers:
            for batch in self._collection.table.batches(
                [*_CHECKED, *_PICTURE, *_EMBEDDING], version=edition.number
            ):
                self._check_rows(pa.table(batch), found, readers)
            self._check_embeddings(found, readers)
        found.add(self._duplicates(edition))
        for run, images in found.gone_runs.items():
            what = f"the run is gone, and with it what {images:,} images of edition {edition.number} need"
            found.add([Difference("missing", run, what)])
        return found

    def _check_rows(self, rows: pa.Table, found: EditionCheck, readers: Executor) -> None:
        found.images += rows.num_rows
        found.add(_row_faults(rows))
        rows = self._of_runs_that_stand(rows, found)
        rows = self._first_seen(rows)
        checks = readers.map(partial(_picture_fault, self._collection.storage), rows.to_pylist())
        for run, fault in zip(rows["run"].to_pylist(), checks, strict=True):
            if fault is not None:
                found.add([fault], run)
        found.pictures += rows.num_rows
        if self._progress:
            self._progress(found.images, found.edition.counts.images)

    def _of_runs_that_stand(self, rows: pa.Table, found: EditionCheck) -> pa.Table:
        shown = rows.filter(pc.field("image_uri").is_valid())
        for counted in shown["run"].value_counts().to_pylist():
            run = counted["values"]
            if run is not None and not self._run_stands(run):
                found.gone_runs[run] = found.gone_runs.get(run, 0) + counted["counts"]
        gone = pa.array(sorted(found.gone_runs), pa.string())
        return shown.filter(pa.array(~is_among(shown["run"].combine_chunks(), gone)))

    def _run_stands(self, run: str) -> bool:
        if run not in self._stands:
            at = run_storage(self._collection, run)
            self._stands[run] = at.exists(run_paths.RUN) or bool(at.list(run_paths.IMAGES))
        return self._stands[run]

    def _first_seen(self, rows: pa.Table) -> pa.Table:
        """Rows with a picture that was in no row before."""
        uris = rows["image_uri"].combine_chunks()
        coded = uris.dictionary_encode()
        first = np.unique(coded.indices.to_numpy(), return_index=True)[1]
        is_new = ~is_among(uris.take(pa.array(first)), self._seen)
        rows = rows.take(pa.array(np.sort(first[is_new])))
        self._seen = pa.concat_arrays([self._seen, rows["image_uri"].combine_chunks()])
        return rows

    def _check_embeddings(self, found: EditionCheck, readers: Executor) -> None:
        claims = self._collection.table.read(["image_id", *_EMBEDDING], version=found.edition.number)
        claims = claims.filter(pc.field("embedding_uri").is_valid() & pc.field("embedding_sha256").is_valid())
        claims = claims.sort_by([("embedding_uri", "ascending"), ("embedding_row", "ascending")])
        shards = [shard for shard in _by_shard(claims) if self._is_new_shard(shard, found)]
        checks = readers.map(partial(_embedding_fault, self._collection.storage), shards)
        for fault in checks:
            if fault is not None:
                found.add([fault], run_of(fault.key))
        found.embedding_shards += len(shards)

    def _is_new_shard(self, claims: pa.Table, found: EditionCheck) -> bool:
        """Whether these claims are to be checked: their run stands, and no edition before made them."""
        uri, run = claims["embedding_uri"][0].as_py(), run_of(claims["embedding_uri"][0].as_py())
        if not self._run_stands(run):
            found.gone_runs.setdefault(run, claims.num_rows)
            return False
        told = set(
            zip(claims["embedding_row"].to_pylist(), claims["embedding_sha256"].to_pylist(), strict=True)
        )
        before = self._claims.get(uri, set())
        self._claims[uri] = before | told
        return not told <= before

    def _duplicates(self, edition: Edition) -> Iterator[Difference]:
        ids = self._collection.table.read(["image_id"], version=edition.number)["image_id"]
        counted = ids.value_counts()
        for place in np.flatnonzero(counted.field("counts").to_numpy() > 1).tolist():
            image_id, rows = counted[place].as_py().values()
            what = f"edition {edition.number} has {rows} rows of this image"
            yield Difference("duplicate", str(image_id), what)


def _row_faults(rows: pa.Table) -> Iterator[Difference]:
    """Rows that contradict themselves."""
    columns = rows.select([*_CHECKED, *_PICTURE, *_EMBEDDING])
    ok = pc.field("status") == "ok"
    shows = ok | pc.field("stale")
    filled = [pc.field(name).is_valid() for name in (*_PICTURE, *_EMBEDDING)]
    whole, empty = filled[0], ~filled[0]
    for one in filled[1:]:
        whole &= one
    for one in filled[1 : len(_PICTURE)]:
        empty &= ~one
    known = pc.field("error_code").isin(list(ERROR_CODES))
    wrongs = (
        (~pc.field("status").isin(["ok", "failed"]) | pc.field("status").is_null(), "has an unknown status"),
        (ok & pc.field("error_code").is_valid(), "is good, and has an error"),
        (~ok & ~known, "has failed without a known error"),
        (shows & ~whole, "shows a picture, and lacks where it is or its hashes"),
        (~shows & ~empty, "has failed, and has a picture"),
    )
    for wrong, what in wrongs:
        for row in columns.filter(wrong).to_pylist():
            yield Difference(
                "inconsistent", str(row["image_id"]), f"the row of prompt {row['prompt_id']!r} {what}"
            )


def _picture_fault(storage: Storage, row: dict[str, Any]) -> Difference | None:
    uri, whose = row["image_uri"], f"image {row['image_id']} of prompt {row['prompt_id']!r}"
    at, key = locate(storage, uri)
    try:
        data = at.read(key)
    except ObjectMissing:
        return Difference("missing", uri, f"no such picture, {whose}")
    got, expected = len(data), row["image_bytes"]
    if got == expected:
        got, expected = hashlib.sha256(data).hexdigest(), row["image_sha256"]
    else:
        got, expected = f"{got} bytes", f"{expected} bytes"
    if got == expected:
        return None
    return Difference("damaged", uri, f"not the picture of the edition, {whose}", None, got, expected)


def _embedding_fault(storage: Storage, claims: pa.Table) -> Difference | None:
    uri = claims["embedding_uri"][0].as_py()
    at, key = locate(storage, uri)
    table, fault = read_table(at, key)
    if table is not None:
        fault = _claim_fault(table, claims)
    if fault is None:
        return None
    kind, what, got, expected = fault
    whose = f"{claims.num_rows:,} images, the first {claims['image_id'][0].as_py()}"
    return Difference(kind, uri, f"{what}, of {whose}", None, got, expected)


def _claim_fault(table: pa.Table, claims: pa.Table) -> Fault | None:
    try:
        hashes = [None if a is None else embedding_sha256(a) for a in embedding_arrays(table)]
    except (ValueError, TypeError, KeyError) as error:  # sizes that do not fit the arrays
        return "damaged", "the arrays cannot be read", error, None
    for row, sha256 in zip(
        claims["embedding_row"].to_pylist(), claims["embedding_sha256"].to_pylist(), strict=True
    ):
        if row is None or not 0 <= row < len(hashes):
            return "inconsistent", f"no row {row}", f"{len(hashes)} rows", None
        if hashes[row] != sha256:
            return "damaged", f"row {row} is not the embedding of the edition", hashes[row], sha256
    return None


def _by_shard(claims: pa.Table) -> list[pa.Table]:
    """Parts of one `embedding_uri` each, of claims in its order."""
    uris = claims["embedding_uri"].combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.diff(uris, prepend=-1)).tolist()
    return [claims.slice(start, end - start) for start, end in pairwise([*starts, len(uris)])]


def run_of(uri: str) -> str:
    """The run that a picture or an embedding shard lies in."""
    parts = uri.split("/")
    folders = (run_paths.IMAGES.strip("/"), run_paths.EMBEDDINGS.strip("/"))
    place = max((at for at, part in enumerate(parts) if part in folders), default=len(parts) - 1)
    return "/".join(parts[:place])
