"""What a regeneration would come to, told without a lease and without writing anything."""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from cascade_batch.collection.editions import editions_of
from cascade_batch.collection.place import open_collection
from cascade_batch.collection.regenerating import asking
from cascade_batch.collection.regenerating.assessing import Assessment, Options, assess, groups_of
from cascade_batch.collection.regenerating.comparing import State
from cascade_batch.collection.regenerating.missing import Missing, write_missing
from cascade_batch.collection.regenerating.one_runner import OneRunner
from cascade_batch.collection.regenerating.spool import Spool
from cascade_batch.pipeline.runners.runner import Runner
from cascade_batch.plan.planning import ImageGroup, Plan, make_plan, plan_table
from cascade_batch.prompts import check_carried
from cascade_batch.settings import PromptsSpec, Spec
from cascade_batch.storage import Storage


@dataclass(frozen=True)
class Forecast:
    """Images of a table, by what would be done for them."""

    asked: asking.Asked
    images: int
    states: Mapping[State, int]
    withdrawn: int
    """Images of the newest edition that the table asks for no more."""
    decoded: Mapping[ImageGroup, int]
    """What Stage B and A would render from known embeddings, by kind."""
    rendered: Mapping[ImageGroup, int]
    """What both stages would render, by kind."""
    plan: Plan | None
    """Of the run, None if there would be none."""

    @property
    def to_render(self) -> int:
        """Pictures to make: images of one key share one."""
        return sum(self.decoded.values()) + sum(self.rendered.values())


def forecast(spec: Spec, into: str, make_runner: Callable[[], Runner], options: Options) -> Forecast:
    """Assess a table against a collection.

    Raises:
        SpecError: there is no collection.
        CascadeError: bad input, weights or storage.
    """
    collection = open_collection(into)
    asked = asking.asked(spec, collection.uri)
    make_plan(asked.table, asked.spec)  # every error of its values
    check_carried(asked.table)
    last = next(iter(editions_of(collection.table)), None)
    with closing(OneRunner(make_runner)) as runner, Spool() as spool:
        assessment = assess(asked, collection, last, runner, options, spool)
        found = assessment.states(assessment.known())
        todo = assessment.missing(found, set())
        counted = {state: int((found == state).sum()) for state in State}
        withdrawn = len(assessment.earlier.withdrawn)
        decoded, rendered = np.split(todo.rows, [todo.decoded])
        groups = (_groups(spool, decoded), _groups(spool, rendered))
        return Forecast(asked, spool.rows, counted, withdrawn, *groups, plan=_plan(assessment, todo))


def _groups(spool: Spool, rows: np.ndarray) -> dict[ImageGroup, int]:
    return groups_of(spool.take(np.sort(rows)))


def _plan(assessment: Assessment, todo: Missing) -> Plan | None:
    """The plan of the run, of its prompt table as it would be written."""
    if not len(todo):
        return None
    with tempfile.TemporaryDirectory(prefix="cascade-batch-") as folder:
        write_missing(todo, assessment.spool, assessment.asked.table, Storage(folder), "")
        spec = replace(assessment.asked.spec, prompts=PromptsSpec(uri=folder))
        return plan_table(replace(spec, output=replace(spec.output, uri="")))[1]
