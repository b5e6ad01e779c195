"""Rendering what is missing: ordinary runs inside the collection, one after the other until nothing more can be had.

One is mostly enough. A second one decodes pictures whose embedding the first one made for another picture.
"""

import hashlib
import itertools
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from cascade_batch.collection import paths
from cascade_batch.collection.lease import Lease, LostLease
from cascade_batch.collection.place import Collection, open_collection
from cascade_batch.collection.regenerating.assessing import Assessment
from cascade_batch.collection.regenerating.in_process import InProcess
from cascade_batch.collection.regenerating.known import Known
from cascade_batch.collection.regenerating.learning import Source, learn, source_of
from cascade_batch.collection.regenerating.missing import Missing, write_missing
from cascade_batch.collection.regenerating.writing import Failure
from cascade_batch.errors import IntegrityError
from cascade_batch.pipeline import sitting
from cascade_batch.pipeline.progress import Progress
from cascade_batch.pipeline.runners.runner import Runner
from cascade_batch.pipeline.sitting import Observer
from cascade_batch.run.manifest import committed_shards, read_manifests
from cascade_batch.run.paths import PLAN, RUN
from cascade_batch.run.records import FINISHED, Outcome
from cascade_batch.run.stored import FOUND, StoredEmbeddings
from cascade_batch.settings import DtypeSpec, PromptsSpec, Spec, binding_fields

RECENT = 100
"""Commits among which an unfinished run is looked for: one is begun and learnt within a few of them."""


@dataclass
class Rendered:
    """What the runs of one regeneration came to."""

    failures: dict[str, Failure] = field(default_factory=dict)
    """By `stage_ba_key`."""
    decoded: int = 0
    """Pictures from embeddings that were known."""
    rendered: int = 0
    """Pictures through both stages."""
    run: str | None = None
    """The last run."""
    outcome: Outcome | None = None
    """Of the last run."""
    seen: tuple[Known, np.ndarray] | None = None
    """What was known when nothing was left, and the images' states."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left that could be rendered."""
        return self.outcome is None or self.outcome.state == FINISHED


@dataclass(frozen=True)
class Rendering:
    """The runs of one regeneration."""

    assessment: Assessment
    make_runner: Callable[[], Runner]
    observer: Observer
    lease: Lease

    @property
    def collection(self) -> Collection:
        return self.assessment.collection

    def all(self) -> Rendered:
        """Render what is missing, and learn it. Raises CascadeError as `sitting.render` does."""
        done = Rendered()
        self._learn_abandoned()
        while True:
            known = self.assessment.known()
            states = self.assessment.states(known)
            todo = self.assessment.missing(states, set(done.failures))
            if not len(todo):
                done.seen = known, states
                return done
            self._run(todo, known, done)
            if not done.is_whole:
                return done

    def _run(self, todo: Missing, known: Known, done: Rendered) -> None:
        runs = begun_runs(self.collection)
        spec = self._spec(todo, runs)
        name = spec.output.uri.removeprefix(f"{self.collection.uri}/")
        self._begin(name, runs)
        table = self.assessment.asked.table
        folder = f"{spec.prompts.uri.removeprefix(f'{self.collection.uri}/')}/"
        write_missing(todo, self.assessment.spool, table, self.collection.storage, folder)
        stored = KnownEmbeddings(known, complete=False) if todo.decoded else None
        try:
            done.outcome = sitting.render(
                spec, self.make_runner, _Held(self.observer, self.lease), stored=stored
            )
        except _Lost as lost:
            raise lost.error from None
        done.run = name
        if not done.is_whole:
            return
        self.lease.check()
        source = self._learn(name)
        self._count(source, todo, done)

    def _spec(self, todo: Missing, runs: Mapping[str, int | None]) -> Spec:
        """The run's: the one that was asked for, with nothing left open, of the prompt table of what is missing."""
        asked, dtypes = self.assessment.asked.spec, self.assessment.dtypes
        spec = replace(
            asked,
            prompts=PromptsSpec(embeddings_from=self.collection.uri if todo.decoded else None),
            model=replace(asked.model, dtype=DtypeSpec(c=dtypes.c, ba=dtypes.ba)),
        )
        fields = json.dumps([binding_fields(spec), todo.image_ids, todo.keys], sort_keys=True)
        name = self._name(hashlib.sha256(fields.encode()).hexdigest()[:8], runs)
        storage = self.collection.storage
        return replace(
            spec,
            prompts=replace(spec.prompts, uri=storage.url(paths.prompts_of(name).rstrip("/"))),
            output=replace(spec.output, uri=storage.url(paths.run_root(name))),
        )

    def _name(self, digest: str, runs: Mapping[str, int | None]) -> str:
        """Of the run of these images: the same again after a death, another one once that run is learnt."""
        last = self.assessment.last
        name = f"{last.number + 1 if last else 1:06d}-{digest}"
        again = (f"{name}-{number}" for number in itertools.count(2))
        return next(n for n in itertools.chain([name], again) if self._is_free(paths.run_root(n), runs))

    def _is_free(self, name: str, runs: Mapping[str, int | None]) -> bool:
        """Whether a run of this name is to be gone on with, or may be begun; old ones are not among the `runs`."""
        if name in runs:
            return runs[name] is not None
        return not self.collection.storage.exists(f"{name}/{RUN}")

    def _begin(self, name: str, runs: Mapping[str, int | None]) -> None:
        """Note that there is a run, before there is: what a killed one has rendered is found by this."""
        if runs.get(name) is not None:
            return
        known = self.collection.known
        nothing = known.schema().empty_table()
        metadata = {"begun": name, "edition": self.assessment.version + 1}
        known.append(nothing, after=known.version(), metadata=metadata, token=uuid.uuid4().hex)

    def _learn_abandoned(self) -> None:
        """Learn from runs that were begun and have not ended, but for the one that would be gone on with."""
        runs = begun_runs(self.collection)
        found = [name for name, edition in runs.items() if edition is not None]
        if not found:
            return
        states = self.assessment.states(self.assessment.known())
        todo = self.assessment.missing(states, set())
        ours = self._spec(todo, runs).output.uri if len(todo) else None
        for name in found:
            storage = self.collection.storage
            if storage.url(name) != ours and storage.exists(f"{name}/{PLAN}"):  # else it has nothing yet
                self.observer.note(f"taking over what {name} has rendered")
                self._learn(name)

    def _learn(self, name: str) -> Source:
        source = source_of(self.collection, name, self.assessment.version + 1)
        learn(self.collection, source, uuid.uuid4().hex, {"learnt": name})
        return source

    def _count(self, source: Source, todo: Missing, done: Rendered) -> None:
        """Note what failed, and that everything else has come out under the key that was asked for."""
        keys = dict(zip(todo.image_ids, todo.keys, strict=True))
        decoded = set(todo.image_ids[: todo.decoded])
        run, columns = source.run, ["prompt_id", "status", "error_code", "error_message", "stage_ba_key"]
        for _, manifest in read_manifests(run.storage, sorted(committed_shards(run.storage)), columns):
            for row in manifest.to_pylist():
                key = keys[row["prompt_id"]]
                if row["status"] == "failed":
                    done.failures[key] = (row["error_code"], row["error_message"])
                    continue
                if row["stage_ba_key"] != key:
                    raise _other_key(source, row["prompt_id"])
                done.decoded += row["prompt_id"] in decoded
                done.rendered += row["prompt_id"] not in decoded


def _other_key(source: Source, image: str) -> IntegrityError:
    return IntegrityError(
        "a picture came out under another key than it was asked for; it is known, but no edition shows it",
        where=f"{source.name}, {image}",
        next_step="all nodes must have the same weights and the same version of this program; repeat the command",
    )


def begun_runs(collection: Collection) -> dict[str, int | None]:
    """Runs of recent regenerations -> the edition that they were begun for, None once they are learnt."""
    runs: dict[str, int | None] = {}
    for commit in reversed(collection.known.history(RECENT)):
        if "begun" in commit.metadata:
            runs[commit.metadata["begun"]] = commit.metadata["edition"]
        elif "learnt" in commit.metadata:
            runs[commit.metadata["learnt"]] = None
    return runs


class KnownEmbeddings(StoredEmbeddings):
    """Those of a collection."""

    def __init__(self, known: Known, complete: bool = True) -> None:
        self._known, self.complete = known, complete

    def find(self, stage_c_keys: pa.Array) -> pa.Table:
        return self._known.find(stage_c_keys).cast(FOUND)


def known_embeddings(uri: str) -> KnownEmbeddings:
    """The embeddings of a collection. Raises SpecError if there is none."""
    collection = open_collection(uri)
    known = collection.known
    return KnownEmbeddings(Known(collection.storage, known, known.version(), InProcess()))


class _Lost(Exception):
    """Passes by all that would write down how the sitting ended: the run is another driver's now."""

    def __init__(self, error: LostLease) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class _Held:
    """An observer that ends a sitting whose driver has lost the collection."""

    observer: Observer
    lease: Lease

    def note(self, text: str) -> None:
        self.observer.note(text)

    def warn(self, text: str) -> None:
        self.observer.warn(text)

    def progress(self, progress: Progress) -> None:
        try:
            self.lease.check()
        except LostLease as error:
            raise _Lost(error) from None
        self.observer.progress(progress)
