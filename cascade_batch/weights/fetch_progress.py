"""What is seen of a download: a bar on a terminal, elsewhere a log line at its start and one at its end."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from cascade_batch.storage.urls import names_of

Advance = Callable[[int], object]
"""Called with the number of bytes whenever some have come; from any thread."""

log = logging.getLogger(__name__)


def progress_of(url: str, size: int) -> AbstractContextManager[Advance]:
    """Shows the download of one file for as long as the context lasts."""
    return _bar(url, size) if sys.stderr.isatty() else _lines(url, size)


@contextmanager
def _bar(url: str, size: int) -> Iterator[Advance]:
    name = TextColumn("{task.description}", markup=False)
    columns = (name, BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("/".join(names_of(url)[-2:]), total=size)
        yield lambda count: bar.advance(task, count)


@contextmanager
def _lines(url: str, size: int) -> Iterator[Advance]:
    log.info("fetching %s, %.1f MB", url, size / 1e6)
    start = time.monotonic()
    yield lambda _: None
    seconds = time.monotonic() - start
    log.info("fetched %s in %.1f s, %.1f MB/s", url, seconds, size / 1e6 / max(seconds, 1e-3))
