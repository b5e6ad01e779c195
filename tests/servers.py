"""Real S3 servers on loopback, as processes that the tests start and end themselves.

moto holds everything in memory and is quick; it checks no credentials. SeaweedFS, which the benchmarks use too, is
persistent, survives `kill` and `restart`, and refuses unknown keys. Both honour create-only writes.
"""

import sys
from pathlib import Path

from jobs.bench.servers import ACCESS_KEY, SECRET_KEY, S3Server, free_ports, start_seaweed

__all__ = ["ACCESS_KEY", "SECRET_KEY", "S3Server", "free_ports", "start_moto", "start_seaweed"]


def start_moto(folder: Path) -> S3Server:
    """In memory; about 1.5 s."""
    return S3Server(
        lambda port: [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], folder
    )
