"""The environment of a Ray cluster of our own, set before ray is imported: its native part reads it only then."""

import os
import secrets
import sys

IDLE_WORKERS = 16
"""Worker processes that a machine of ours keeps at least. Ray's own limit is its CPUs: on two cores each step's process
was ended after a second of rest, and the next one spent 2 s of a core on imports (`jobs/BENCHMARKS.md`)."""


def prepare_own_cluster() -> None:
    """Give this process, and the cluster it will start, a token that ends with them, and a quiet native log.

    Untold, Ray writes a token into the user's home, or checks none at all, depending on what ran before. At its
    usual level the native log warns of every actor that may restart, which ours all may.
    """
    if "RAY_ADDRESS" in os.environ or "ray" in sys.modules:
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_num_workers_soft_limit", str(max(IDLE_WORKERS, os.cpu_count() or 1)))
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
