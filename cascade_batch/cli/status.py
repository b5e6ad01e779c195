"""`cascade-batch status`: how far a run is."""

import shlex
from argparse import Namespace

from cascade_batch.cli.exit_codes import FINISHED
from cascade_batch.run.run import open_existing
from cascade_batch.run.status import RunStatus, run_status


def status_command(arguments: Namespace) -> int:
    status = run_status(open_existing(arguments.run), arguments.rows)
    print(f"images  {status.images_done:,} of {status.images:,} done")
    print(
        f"shards  {status.shards_done:,} of {status.shards:,} done, {status.shards_embedded:,} with embeddings"
    )
    print(f"failed  {_failed(status, arguments.run)}")
    print(f"driver  {status.driver}")
    last = status.outcome.state if status.outcome else "the last sitting has not ended: it runs, or it died"
    print(f"last    {last}")
    return FINISHED


def _failed(status: RunStatus, run: str) -> str:
    if status.failed is None:
        return f"not counted; cascade-batch status --rows {shlex.quote(run)}"
    return ", ".join(f"{code} {count:,}" for code, count in sorted(status.failed.items())) or "none"
