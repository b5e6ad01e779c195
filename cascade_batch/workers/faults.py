"""What a library raises while a row is in hand: that row's failure, unless it is the store's or the cluster's.

Nobody can list what decoders, tokenizers and networks raise about the values that people bring, so a row's failure is
whatever is not known to be something else.
"""

import logging
from collections.abc import Callable

from cascade_batch.errors import CascadeError, PictureError, SpecError
from cascade_batch.model.geometry import MIN_SIDE
from cascade_batch.storage.failures import sanitise
from cascade_batch.workers.batching import Batch
from cascade_batch.workers.rendering import BatchRefused, Blame, DeviceOutOfMemory, RowResult

log = logging.getLogger(__name__)


def failure_of(error: Exception, what: str) -> RowResult:
    """The failure of the row that a step had in hand, `what` for the log. Raises an error that is no row's again."""
    if isinstance(error, CascadeError) and not isinstance(error, PictureError | SpecError):
        raise error
    if isinstance(error, CascadeError):
        told = str(error)
    else:
        log.warning("%s fails: %s", what, error, exc_info=error)
        told = sanitise(f"{type(error).__name__}: {error}")
    code = "bad_image" if isinstance(error, PictureError) else "bad_condition"
    return RowResult(error_code=code, error_message=told.encode(errors="replace").decode())


def refusal(error: Exception) -> Exception:
    """What to raise for what a batch raised: DeviceOutOfMemory, BatchRefused, or the error itself if it is no row's."""
    from cascade_batch.engine.devices import (  # torch: not for the reading steps
        is_device_error,
        is_out_of_memory,
    )

    if is_out_of_memory(error):
        return DeviceOutOfMemory(str(error))
    return error if isinstance(error, CascadeError) or is_device_error(error) else BatchRefused(error)


def blaming(stage: str, shard: int, try_batch: Callable[[Batch], None]) -> Blame:
    """A row is to blame for what is raised about it alone, as long as the worker renders a plain batch.

    Otherwise every row of the table would fail for a broken worker, and the run would end well.
    """
    plain = Batch((0,), 1, MIN_SIDE, MIN_SIDE, steps=1, guided=False)

    def blame(error: Exception, row: int) -> RowResult:
        try:
            try_batch(plain)
        except BatchRefused:
            raise error from None
        return failure_of(error, f"{stage}, shard {shard}, image {row}")

    return blame
