"""What fails in a cluster, in our words."""

import logging

from ray.exceptions import RayError

from cascade_batch.errors import CascadeError

log = logging.getLogger(__name__)


def in_our_words(error: Exception) -> CascadeError:
    """Our error if one caused this, else the innermost cause in one message."""
    causes: list[BaseException] = [error]
    while (cause := getattr(causes[-1], "cause", None) or causes[-1].__cause__) and cause not in causes:
        causes.append(cause)
    ours = next((cause for cause in causes if isinstance(cause, CascadeError)), None)
    if ours is not None:
        return ours
    foreign = [cause for cause in causes if not isinstance(cause, RayError) and str(cause)]
    told = f"{type(foreign[-1]).__name__}: {foreign[-1]}" if foreign else str(error)
    log.debug("%s", error)
    return CascadeError(
        "a worker or the cluster failed; finished shards are safe",
        where="ray",
        got=told.strip()[-600:] or repr(error),
        next_step="repeat the command to go on; --set log.level=debug shows the whole trace",
    )
