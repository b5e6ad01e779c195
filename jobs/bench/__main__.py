"""Our networks beside diffusers' on the same weights, and beside what this machine can do at all.

Run:  python -m jobs.bench [--config mini mid] [--batch 1 8] [--dtype float32 bfloat16] [--out bench.parquet]

Prints, for each network step and a whole prior run, the median seconds of both (least to most), the ratio, and the
share of the rate of a large matrix product measured in the same run. `published` is for a GPU.
"""

import argparse
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cascade_batch.devices import device_kind, keep_freed_memory, pick_device
from jobs.bench.peers import Peers, Station, configuration
from jobs.bench.timing import Timed, alternating, product_rate

CONFIGS = ("mini", "mid", "published")


def main(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    keep_freed_memory()
    device = pick_device()
    machine = f"{device_kind(device)}, {platform.processor() or platform.machine()}"
    print(f"{machine}, {torch.get_num_threads()} threads, torch {version('torch')}")
    rows = []
    with torch.inference_mode():
        for name in arguments.dtype:
            dtype = getattr(torch, name)
            peak = product_rate(device, dtype)
            print(f"\n{name}: {peak / 1e9:,.0f} GFLOP/s in a matrix product\n\n{_HEAD}")
            for config in arguments.config:
                peers = Peers(configuration(config), arguments.side, device, dtype)
                for batch in arguments.batch:
                    for station in peers.stations(batch):
                        rows.append(
                            _row(
                                config, name, batch, station, alternating(station.runs, arguments.turns), peak
                            )
                        )
                        print(_line(rows[-1]), flush=True)
    if arguments.out:
        pq.write_table(pa.Table.from_pylist(rows), arguments.out)
    return 0


_HEAD = "| network | batch | what | ours, s | diffusers, s | ratio | of the product |\n|---|---|---|---|---|---|---|"


def _row(config: str, dtype: str, batch: int, station: Station, times: dict[str, Timed], peak: float) -> dict:
    ours, theirs = times["ours"], times.get("diffusers")
    return {
        "config": config,
        "dtype": dtype,
        "batch": batch,
        "what": station.name,
        "ours": ours.median,
        "ours_least": ours.least,
        "ours_most": ours.most,
        "diffusers": theirs and theirs.median,
        "diffusers_least": theirs and theirs.least,
        "diffusers_most": theirs and theirs.most,
        "ratio": theirs and theirs.median / ours.median,
        "of_product": station.flops / ours.median / peak,
    }


def _line(row: dict) -> str:
    ours = f"{row['ours']:.3f} ({row['ours_least']:.3f} to {row['ours_most']:.3f})"
    theirs, ratio = "", ""
    if row["diffusers"]:
        theirs = f"{row['diffusers']:.3f} ({row['diffusers_least']:.3f} to {row['diffusers_most']:.3f})"
        ratio = f"{row['ratio']:.2f}"
    cells = (row["config"], row["batch"], row["what"], ours, theirs, ratio, f"{row['of_product']:.0%}")
    return f"| {' | '.join(map(str, cells))} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.bench", description="Time our networks.")
    parser.add_argument("--config", nargs="+", choices=CONFIGS, default=["mini", "mid"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument(
        "--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"]
    )
    parser.add_argument("--side", type=int, default=1024, help="pixels (default 1024)")
    parser.add_argument("--turns", type=int, default=5, help="of each of the two (default 5)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table as Parquet")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
