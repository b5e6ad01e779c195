"""Repositories of the Hugging Face hub, as people write them."""

import re
from pathlib import Path

from cascade_batch.errors import StorageError, WeightsError
from cascade_batch.storage import Storage
from cascade_batch.storage.urls import is_model_url
from cascade_batch.weights.single_files import SUFFIX

HUB_ID = re.compile(
    r"(?!(?:models|datasets|spaces|buckets|kernels)/)"  # words of the hub's own URLs, and no owners
    r"[A-Z0-9][\w.-]*/[A-Z0-9][\w.-]*(@[^/\s]+)?",
    re.ASCII | re.IGNORECASE,
)
REVISION_LAST = re.compile(r"(hf://(?:models/)?+[^/@]+/[^/@]+)/([^@]+)@([^@]+)")


def hub_url(given: str) -> str:
    """The URL that `owner/name[@revision]` stands for where it is no local path; anything else as it is.

    A revision may stand last in a URL, too: it moves to its place behind the name. A bare id is asked for at once, so
    that a mistyped path fails here. Raises WeightsError, naming both readings, where the hub does not have it.
    """
    if is_model_url(given) and (last := REVISION_LAST.fullmatch(given)):
        return f"{last[1]}@{last[3]}/{last[2]}"
    if not HUB_ID.fullmatch(given) or given.endswith(SUFFIX) or Path(given).exists():
        return given
    url = f"hf://{given}"
    try:
        Storage(url).list()
    except StorageError as error:
        raise WeightsError(
            f"no local folder {given}, and as a repository of the hub: {error.what.removeprefix('storage: ')}",
            where=f"{Path(given).absolute()} or {url}",
            got=error.got,
            next_step=error.next_step,
        ) from None
    return url
