"""Kill 20 Ray drivers at random moments, half on a local disk and half on S3: `make soak`.

Prints one line per kill. Exits 1 if a run ended otherwise than the one that was never killed, or if a process
of a killed driver stayed behind.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.run.kills import Series
from tests.servers import start_seaweed


def soak(folder: Path, kills: int, seed: int) -> list[str]:
    """What was wrong after `kills` kills; nothing, if all is well."""
    server = start_seaweed(_made(folder / "seaweed"))
    os.environ.update(server.environment)
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - started:7.1f} s  {line}", flush=True)

    try:
        series = Series.prepare(_made(folder / "runs"), 8, "ray")
        say("reference rendered")
        on_disk = series.run(str(folder / "disk"), kills // 2, seed, say)
        on_s3 = series.run("s3://ready/soak", kills - kills // 2, seed + 1, say)
    finally:
        server.kill()
    return on_disk.wrong + on_s3.wrong


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    arguments = parser.parse_args()
    print(f"{arguments.kills} kills, seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="cascade-batch-soak-") as folder:
        wrong = soak(Path(folder), arguments.kills, arguments.seed)
    print("\n".join(wrong) or f"{arguments.kills} kills, no difference", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
