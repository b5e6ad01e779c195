"""How long planning takes, and how much memory: 10 million prompts in 1,000 files by default.

    python -m jobs.bench.plan [--rows 10000000] [--files 1000] [--columns none|id|all]

Writes such a table to a temporary folder, plans it in a fresh process and prints seconds and peak RSS.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = {
    "none": (),
    "id": ("id",),
    "all": ("id", "seed", "num_images", "width", "height", "prior_steps", "decoder_guidance_scale"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--files", type=int, default=1_000)
    parser.add_argument("--columns", choices=COLUMNS, nargs="*", default=list(COLUMNS))
    parser.add_argument("--plan", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plan:
        print(json.dumps(plan(options.plan)))
        return
    for columns in options.columns:
        with tempfile.TemporaryDirectory() as folder:
            write_table(Path(folder), options.rows, options.files, COLUMNS[columns])
            command = [sys.executable, __file__, "--plan", folder]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        print(
            f"columns {columns:4}  {found['prompts']:,} prompts  {options.files:,} files  "
            f"{found['shards']:,} shards  open {found['open_s']:.1f} s  plan {found['plan_s']:.1f} s  "
            f"peak {found['rss_mb']:,.0f} MB",
            flush=True,
        )


def write_table(folder: Path, rows: int, files: int, columns: tuple[str, ...]) -> None:
    """A table of `rows` prompts spread evenly over `files` files."""
    bounds = np.linspace(0, rows, files + 1).astype(np.int64)
    for index in range(files):
        table = pa.table(_columns(int(bounds[index]), int(bounds[index + 1]), columns))
        pq.write_table(table, folder / f"part-{index:05}.parquet")


def _columns(first: int, stop: int, columns: tuple[str, ...]) -> dict[str, pa.Array]:
    row = np.arange(first, stop)
    made = {
        "id": pa.array([f"prompt-{r:012x}" for r in row.tolist()]),
        "seed": pa.array(row * 7919),
        "num_images": pa.array(row % 4 + 1, pa.int32()),
        "width": pa.array(np.array([768, 1024])[row % 2]),
        "height": pa.array(np.array([768, 1024, 1280])[row % 3]),
        "prior_steps": pa.array(np.array([20, 30])[row // 1000 % 2]),
        "decoder_guidance_scale": pa.array(np.array([0.0, 1.1])[row // 500 % 2]),
    }
    text = pa.array([f"a photograph of object number {r}, studio light" for r in row.tolist()])
    return {"prompt": text, "category": text, **{name: made[name] for name in columns}}


def plan(folder: str) -> dict[str, float]:
    """Open and plan a table in this process."""
    from cascade_batch.plan.planning import make_plan
    from cascade_batch.prompts import open_table
    from cascade_batch.settings import PromptsSpec, Spec

    spec = Spec(prompts=PromptsSpec(uri=folder))
    start = time.perf_counter()
    table = open_table(spec.prompts)
    opened = time.perf_counter()
    made = make_plan(table, spec)
    return {
        "prompts": made.prompts,
        "shards": made.shards.num_rows,
        "open_s": opened - start,
        "plan_s": time.perf_counter() - opened,
        "rss_mb": peak_rss_mb(),
    }


def peak_rss_mb() -> float:
    """This process's peak. Linux lets `getrusage` inherit the parent's, so the kernel's own count goes first."""
    status = Path("/proc/self/status")
    if status.exists():
        return (
            next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) / 1024
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
