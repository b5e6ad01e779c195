"""Regeneration, top to bottom: key the table, see what is known, render the rest as a run, commit an edition.

Everything that was rendered is known before the edition is committed, so a regeneration that was killed anywhere goes
on from what its runs have committed. The edition is one Delta commit, at exactly the version after the one that was
compared with: who was overtaken commits nothing.
"""

import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, cached_property
from typing import Any

import pyarrow as pa

from cascade_batch.collection.delta.table import cast_for_delta, held_by_delta
from cascade_batch.collection.editions import REGENERATED, Counts, Edition, editions_of
from cascade_batch.collection.lease import IfBusy, Lease, holding
from cascade_batch.collection.place import create_or_open, is_there
from cascade_batch.collection.regenerating import asking
from cascade_batch.collection.regenerating.assessing import Assessment, Options, assess
from cascade_batch.collection.regenerating.known import gone_runs
from cascade_batch.collection.regenerating.one_runner import OneRunner
from cascade_batch.collection.regenerating.rendering import Rendered, Rendering
from cascade_batch.collection.regenerating.spool import Spool
from cascade_batch.collection.regenerating.writing import ROWS_AT_ONCE, Changes, NewRows, fates
from cascade_batch.collection.schemas import edition_schema
from cascade_batch.errors import PromptTableError
from cascade_batch.model.numerics import NUMERICS_VERSION
from cascade_batch.pipeline.runners.runner import Runner
from cascade_batch.pipeline.sitting import Observer
from cascade_batch.plan.planning import make_plan
from cascade_batch.prompts import check_carried
from cascade_batch.run.records import Outcome
from cascade_batch.settings import Spec, spec_to_dict
from cascade_batch.storage import Storage
from cascade_batch.storage.urls import split_query
from cascade_batch.workers.committing import versions

NOTHING_TO_DO, DONE, DONE_WITH_FAILED_ROWS = "nothing_to_do", "done", "done_with_failed_rows"
"""States of a result, besides those of a run that did not finish (`run.records`)."""
MERGED_BELOW = 0.3
"""Share of an edition's rows up to which changed ones are merged into the one before; beyond it all are written."""


@dataclass(frozen=True)
class Result:
    state: str
    edition: Edition | None
    """The one that was committed, or the newest, which says it all already."""
    outcome: Outcome | None = None
    """Of the last run that was rendered."""
    run: str | None = None
    """The last run that was rendered, relative to the collection."""
    is_new: bool = False
    """The edition was committed now."""
    was_named: bool = False
    """There was one of this name, so the table was not looked at."""


def regenerate(
    spec: Spec,
    into: str,
    make_runner: Callable[[], Runner],
    observer: Observer,
    options: Options,
    if_busy: IfBusy = "fail",
) -> Result:
    """Bring a collection, made if there is none, to the state that the spec's prompt table asks for.

    Args:
        make_runner: called only if something is to be rendered, or to be asked of the workers.
        if_busy: as `lease.holding` has it.

    Raises:
        Busy: another process is at work on the collection.
        LostLease, Conflict: another process has taken over; nothing was committed.
        CascadeError: bad input, weights or storage.
    """
    is_new = not is_there(into)
    asked = asking.asked(spec, Storage(into).uri)
    checked = cache(lambda: _checked(asked))
    if is_new:
        checked()  # bad input leaves no collection behind
    collection = create_or_open(into)
    tables = (collection.table, collection.known)
    with holding(collection.storage, "regenerate", if_busy=if_busy, tables=tables) as lease:
        editions = editions_of(collection.table)
        last = editions[0] if editions else None
        if options.name and (named := _named(editions, options.name)):
            return Result(_state(named), named, was_named=True)
        if last and _says_it_all(asked, last, options) and not gone_runs(collection.storage, last.runs):
            return Result(NOTHING_TO_DO, last)
        if asked.table.default_ids:
            observer.warn(asking.NO_IDS)
        schema = checked()
        if last and last.counts.images and not options.allow_empty:
            _check_not_empty(asked, last)
        with closing(OneRunner(make_runner)) as runner, Spool() as spool:
            assessment = assess(asked, collection, last, runner, options, spool)
            _check_values(spool, schema, asked)
            rendered = Rendering(assessment, runner, observer, lease).all()
            if not rendered.is_whole:
                assert rendered.outcome is not None
                return Result(rendered.outcome.state, last, rendered.outcome, rendered.run)
            return _Committing(assessment, rendered, schema, lease).result()


def _check_not_empty(asked: asking.Asked, last: Edition) -> None:
    """Raise PromptTableError for a table without prompts: mostly an export that failed, and gc would follow."""
    if not asked.table.rows or asked.spec.prompts.limit == 0:
        raise PromptTableError(
            "the table has no prompts: the edition would withdraw every image",
            where=asked.table.root,
            got="0 prompts",
            expected=f"some, as edition {last.number} has {last.counts.images:,} images",
            next_step="--allow-empty, if that is what is wanted",
        )


def _checked(asked: asking.Asked) -> pa.Schema:
    """Schema of the table's edition, as Delta holds it. Raises PromptTableError for what no edition can hold."""
    make_plan(asked.table, asked.spec)  # every error of its values
    check_carried(asked.table)
    return held_by_delta(edition_schema(asked.table.carried), asked.table.root)


def _check_values(spool: Spool, schema: pa.Schema, asked: asking.Asked) -> None:
    """Raises PromptTableError for values that Delta cannot hold, such as times of nanoseconds."""
    for field in asked.table.carried:
        if spool.rows and field.type != schema.field(field.name).type:
            cast_for_delta(
                spool.columns([field.name]), pa.schema([schema.field(field.name)]), asked.table.root
            )


def _named(editions: list[Edition], name: str) -> Edition | None:
    return next((edition for edition in editions if edition.name == name), None)


def _says_it_all(asked: asking.Asked, last: Edition, options: Options) -> bool:
    """Whether the newest edition is what would be made, told without reading a row of the table."""
    if options.bits:  # only the workers know what they would render on
        return False
    to_retry = last.counts.failed and options.retry_failed
    return asking.is_answered(asked, last) and last.options == options.to_json() and not to_retry


def _state(edition: Edition) -> str:
    return DONE_WITH_FAILED_ROWS if edition.counts.failed else NOTHING_TO_DO


@dataclass(frozen=True)
class _Committing:
    """The edition, from what is known once everything is rendered."""

    assessment: Assessment
    rendered: Rendered
    schema: pa.Schema
    lease: Lease

    @cached_property
    def rows(self) -> NewRows:
        a = self.assessment
        assert self.rendered.seen is not None
        known, states = self.rendered.seen
        what = fates(a.spool, states, a.earlier, self.rendered.failures)
        table, keep_stale = a.collection.table, a.options.keep_stale
        return NewRows(a.spool, known, a.earlier, what, table, a.version, self.schema, keep_stale)

    def result(self) -> Result:
        """Commit an edition, if it differs from the one before."""
        a = self.assessment
        same_schema = a.last is not None and a.collection.table.schema(a.version).equals(self.schema)
        changes = self.rows.changes(a.asked.table.carried.names, same_schema)
        if a.last and same_schema and not changes:
            failed = int((~self.rows.fates.good).sum())
            state = DONE_WITH_FAILED_ROWS if failed else NOTHING_TO_DO
            return Result(state, a.last, self.rendered.outcome, self.rendered.run)
        edition = self._edition(changes)
        self._commit(edition, changes, merge=same_schema)
        state = DONE_WITH_FAILED_ROWS if edition.counts.failed else DONE
        return Result(state, edition, self.rendered.outcome, self.rendered.run, is_new=True)

    def _commit(self, edition: Edition, changes: Changes, merge: bool) -> None:
        table, rows = self.assessment.collection.table, self.rows
        told = {
            "after": self.assessment.version,
            "metadata": {"edition": edition.to_json()},
            "token": uuid.uuid4().hex,
        }
        share = (changes.rows.sum() + len(changes.withdrawn)) / max(1, len(changes.rows))
        self.lease.check()
        if merge and share <= MERGED_BELOW:
            changed = rows.of(changes.rows.nonzero()[0])
            table.merge(changed, changes.withdrawn, on="image_id", **told)
        else:
            with Spool() as made:  # Delta's writer asks for rows where none can be read from Delta
                for part in rows.all():
                    made.append(part)
                self.lease.check()
                batches = (batch for part in made.parts() for batch in part.to_batches())
                table.overwrite(batches, self.schema, **told)

    def _edition(self, changes: Changes) -> Edition:
        a, good = self.assessment, self.rows.fates.good
        spec = replace(
            a.asked.spec, prompts=replace(a.asked.spec.prompts, uri=split_query(a.asked.spec.prompts.uri)[0])
        )
        table, runs = a.asked.table, self._pictures()
        made = runs["rendered_in"].get(a.version + 1, 0)  # also by a sitting that was killed
        return Edition(
            number=a.version + 1,
            kind=REGENERATED,
            name=a.options.name,
            created=datetime.now(UTC).isoformat(),
            spec=spec_to_dict(spec),
            table={
                "root": table.root,
                "digest": table.digest,
                "fingerprint": a.asked.fingerprint or "",
                "settings": a.asked.settings,
                "files": len(table.files),
                "prompts": int((a.spool.columns(["image_index"])["image_index"].to_numpy() == 0).sum()),
                "columns": table.carried.names,
            },
            weights=a.weights,
            located=a.asked.located or "",
            dtypes=a.dtypes.named(),
            numerics=NUMERICS_VERSION,
            versions=versions(),
            counts=Counts(
                images=a.spool.rows,
                failed=int((~good).sum()),
                stale=int(self.rows.stale.sum()),
                reused=int(good.sum()) - made,
                decoded=min(made, self.rendered.decoded),
                rendered=max(0, made - self.rendered.decoded),
                new=int(changes.new.sum()),
                withdrawn=len(changes.withdrawn),
                changed=int((changes.pictures & ~changes.new).sum()),
                carried=int(changes.carried.sum()),
            ),
            runs=dict(sorted(runs["run"].items())),
            run=self.rendered.run,
            options=a.options.to_json(),
        )

    def _pictures(self) -> dict[str, Counter[Any]]:
        """Good pictures by the run that they lie in, and by the edition that they were rendered in."""
        counted = {"run": Counter[Any](), "rendered_in": Counter[Any]()}
        for start in range(0, self.assessment.spool.rows, ROWS_AT_ONCE):
            found = self.rows.found.rows(list(counted), slice(start, start + ROWS_AT_ONCE))
            for name, counts in counted.items():
                values = found[name].drop_null().value_counts().to_pylist()
                counts.update({value["values"]: value["counts"] for value in values})
        return counted
