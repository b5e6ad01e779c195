"""What travels between the steps of a run: a ticket, and the shard's tables for the next step only."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import pyarrow as pa

from cascade_batch.errors import CascadeError, StorageError, WeightsError
from cascade_batch.model.stages import PerPool
from cascade_batch.run.schemas import ImageRequest
from cascade_batch.storage import ObjectExists, ObjectMissing
from cascade_batch.storage.failures import sanitise, take_retries

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ticket:
    """One shard to do. `retry` names the images to render again; empty means all of them."""

    shard: int
    file: int
    first_row: int
    rows: int
    first_image: int
    images: int
    has_embeddings: bool = False
    retry: tuple[str, ...] = ()
    is_stored: bool = False
    """Its embeddings are stored elsewhere (`run.sources`), and are copied unless it has them."""

    @property
    def needs_stage_c(self) -> bool:
        """Whether pool C may have something to render."""
        return bool(self.retry) or not (self.has_embeddings or self.is_stored)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "Ticket":
        return cls(**{**tree, "retry": tuple(tree["retry"])})


@dataclass(frozen=True)
class ShardData:
    """A shard on its way. A table is set by one step for its neighbour and dropped after that."""

    ticket: Ticket
    requests: pa.Table | None = None
    """`run.schemas.IMAGE_REQUESTS`: what to render."""
    conditioned: pa.Table | None = None
    """`condition_tables.CONDITIONED`: what the next stage is given besides text."""
    prompts_sha256: str = ""
    """Hash of the prompt rows as read from the table."""
    embeddings: pa.Table | None = None
    """The embedding shard's schema; after Stage B without its arrays."""
    pixels: pa.Table | None = None
    """`stage_ba.PIXELS`: raw pixels and what happened."""
    seconds: PerPool[float] = field(default_factory=lambda: PerPool(0.0, 0.0))
    """Busy seconds of the pools in this sitting."""
    failed_rows: int = 0
    error: str = ""
    """A storage or integrity error: the shard stays undone, its later steps are passed over."""
    error_is_permanent: bool = False
    """The other shards would meet it as well, so the run stops."""
    retries: int = 0
    """Requests to stores that were sent again meanwhile, by the processes that it passed."""

    @property
    def images(self) -> list[ImageRequest]:
        """The rows of `requests`."""
        assert self.requests is not None
        return cast(list[ImageRequest], self.requests.to_pylist())


Step = Callable[[ShardData], ShardData]


def guarded(
    step: Step, data: ShardData, is_fatal: Callable[[Exception], bool] = lambda _: False
) -> ShardData:
    """Run a step; an error that is not a row's leaves the shard undone instead of ending the run.

    `is_fatal` tells of errors after which the process is not to go on; they are raised.
    """
    if data.error:
        return data
    try:
        data = step(data)
    except CascadeError as error:
        data = without_tables(data, str(error), _is_permanent(error))
    except Exception as error:
        if is_fatal(error):
            raise
        log.exception("shard %d stays undone", data.ticket.shard)
        data = without_tables(data, str(_unforeseen(error, data)))
    return replace(data, retries=data.retries + take_retries())


def _unforeseen(error: Exception, data: ShardData) -> CascadeError:
    return CascadeError(
        "something that is no row's doing went wrong with a shard, which stays undone",
        where=f"shard {data.ticket.shard}",
        got=sanitise(f"{type(error).__name__}: {error}"),
        next_step="repeat the command to try it again",
    )


def _is_permanent(error: CascadeError) -> bool:
    """Whether every other shard would meet the same error. A missing or changed object is one shard's."""
    if isinstance(error, ObjectMissing | ObjectExists):
        return False
    return isinstance(error, WeightsError) or (isinstance(error, StorageError) and not error.transient)


def without_tables(data: ShardData, error: str = "", is_permanent: bool = False) -> ShardData:
    """What is left of a shard when its journey ends."""
    return replace(
        data,
        requests=None,
        conditioned=None,
        embeddings=None,
        pixels=None,
        error=error,
        error_is_permanent=is_permanent,
    )


def ticket_from_row(
    row: dict[str, Any], has_embeddings: bool, retry: tuple[str, ...] = (), is_stored: bool = False
) -> Ticket:
    """The ticket of one row of `plan.parquet`."""
    names = ("shard", "file", "first_row", "rows", "first_image", "images")
    return Ticket(
        **{name: row[name] for name in names}, has_embeddings=has_embeddings, retry=retry, is_stored=is_stored
    )
