"""Stored embeddings by their stage keys: what another Stage B can start from without Stage C."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from cascade_batch.model.stages import PerPool
from cascade_batch.run.manifest import committed_shards, read_manifests, read_table
from cascade_batch.run.records import FINISHED, read_outcome
from cascade_batch.run.run import Run, open_existing
from cascade_batch.run.stage_keys import KeyMaker
from cascade_batch.run.unlike import COMPARED, unlike
from cascade_batch.run.uris import is_elsewhere

FOUND = pa.schema(
    [("embedding_uri", pa.string()), ("embedding_row", pa.int32()), ("embedding_sha256", pa.string())]
)
"""Where an embedding lies, by an absolute URI; nulls: it is not known."""

_KNOWN = pa.schema(
    [
        ("stage_c_key", pa.string()),
        ("embedding_uri", pa.dictionary(pa.int32(), pa.string())),
        ("embedding_row", pa.int32()),
        ("embedding_sha256", pa.string()),
    ]
)
"""URIs are few, and so stay encoded."""


class StoredEmbeddings(Protocol):
    """Whoever knows embeddings. To be derived from."""

    complete: bool
    """Every image must be found; else a shard is rendered unless all of its images are."""

    def find(self, stage_c_keys: pa.Array) -> pa.Table:
        """`FOUND` of each key, none of which is null; asked for no keys first, it sees whether its source is there."""
        ...

    def explain(self, asked: Mapping[str, Any], keys: KeyMaker) -> str:
        """What tells an image that was not found from the one most like it, empty if nothing is known.

        Args:
            asked: a row of `workers.keying.KEYED`.
            keys: what made its key.
        """
        del asked, keys
        return ""


class LateEmbeddings(StoredEmbeddings):
    """Looks for its source when it is first asked, so that a finished run needs it no more."""

    complete = True

    def __init__(self, open_source: Callable[[], StoredEmbeddings]) -> None:
        self._open_source = open_source

    @cached_property
    def _source(self) -> StoredEmbeddings:
        return self._open_source()

    def find(self, stage_c_keys: pa.Array) -> pa.Table:
        return self._source.find(stage_c_keys)

    def explain(self, asked: Mapping[str, Any], keys: KeyMaker) -> str:
        return self._source.explain(asked, keys)


class RunEmbeddings(StoredEmbeddings):
    """Those of a run, also of images that failed after Stage C."""

    complete = True

    def __init__(self, run: Run) -> None:
        self._run = run

    def find(self, stage_c_keys: pa.Array) -> pa.Table:
        known = pc.SetLookupOptions(self._known["stage_c_key"])
        places = pc.call_function("index_in", [stage_c_keys.cast(pa.string())], known)
        return self._known.select(FOUND.names).take(places).cast(FOUND)

    @cached_property
    def _known(self) -> pa.Table:
        """One row per embedding."""
        return pa.concat_tables(self._embeddings()).unify_dictionaries().combine_chunks()

    def _embeddings(self) -> Iterator[pa.Table]:
        columns = ["stage_c_key", *FOUND.names]
        yield _KNOWN.empty_table()
        for rows in _tables(self._run, columns):
            stored = rows.filter(pc.field("embedding_sha256").is_valid())
            uris = stored["embedding_uri"].combine_chunks().dictionary_encode()
            absolute = [self._absolute(uri) for uri in uris.dictionary.to_pylist()]
            encoded = pa.DictionaryArray.from_arrays(uris.indices, pa.array(absolute, pa.string()))
            place = stored.schema.get_field_index("embedding_uri")
            yield stored.set_column(place, "embedding_uri", encoded).select(columns).cast(_KNOWN)

    def _absolute(self, uri: str) -> str:
        return uri if is_elsewhere(uri) else self._run.storage.url(uri)

    def explain(self, asked: Mapping[str, Any], keys: KeyMaker) -> str:
        for wanted in ("prompt_id", "prompt"):
            for rows in _tables(self._run, [*COMPARED, "stage_c_dtype", "numerics"]):
                alike = rows.filter(pc.field(wanted) == pa.scalar(asked[wanted], pa.string())).slice(0, 1)
                if alike.num_rows:
                    stored = alike.to_pylist()[0]
                    return unlike(stored, self._shared(stored), asked, keys.shared_c)
        return f"no image there has the id or the text of {asked['prompt_id']!r}"

    def _shared(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """What that image's key shares with others of the run."""
        dtypes = PerPool(stored["stage_c_dtype"], "")
        keys = KeyMaker(self._run.weights, dtypes, self._run.sampling, self._run.text)
        return {**keys.shared_c, "numerics": stored["numerics"]}


def stored_in(uri: str) -> RunEmbeddings:
    """The embeddings of a run. Raises StorageError if there is none, or it has no plan yet."""
    return RunEmbeddings(open_existing(uri))


def _tables(run: Run, columns: list[str]) -> Iterator[pa.Table]:
    """All manifest rows, from the few large files of a finished run or shard by shard."""
    outcome = read_outcome(run.storage)
    if outcome is not None and outcome.state == FINISHED:
        yield from read_table(run.storage, columns)
        return
    done = sorted(committed_shards(run.storage, run.planned) & run.planned)
    yield from (table for _, table in read_manifests(run.storage, done, columns))
