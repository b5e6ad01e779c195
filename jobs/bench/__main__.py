"""Our networks beside diffusers' on the same weights, and beside what this machine can do at all.

Run:  python -m jobs.bench [--config mini mid] [--batch 1 4 8] [--dtype float32 bfloat16] [--steps]
                            [--compiled] [--out FILE]

Prints, for one pass of each network, whole runs of both stages and mini's whole chain from prompts to pictures, the
median seconds of both (least to most), the ratio, and the share of the rate of a large matrix product that was measured
in the same run; on a GPU that is the model FLOP utilisation, and the peak memory stands beside it. `published` is for a
GPU. `--compiled` adds torch.compile of both sides' networks.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cascade_batch.engine.devices import device_kind, keep_freed_memory, pick_device
from jobs.bench.chain import Chain
from jobs.bench.loops import decoder_run, prior_run
from jobs.bench.peers import Peers, Station, configuration
from jobs.bench.timing import Timed, alternating, peak_memory, product_rate

CONFIGS = ("mini", "mid", "published")


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    keep_freed_memory()  # as our workers do; diffusers gains by it as well
    device, rows = pick_device(), []
    print(f"{device_kind(device)}, {torch.get_num_threads()} threads, {_versions()}")
    with torch.inference_mode():
        for dtype in options.dtype:
            peak = product_rate(device, getattr(torch, dtype))
            print(f"\n{dtype}: {peak / 1e9:,.0f} GFLOP/s in a matrix product\n\n{_HEAD}")
            for config, batch, station in _stations(options, device, dtype):
                times = alternating(station.runs, options.turns)
                rows.append(_row(config, dtype, batch, station, times, peak))
                rows[-1]["peak_gb"] = peak_memory(station.runs["ours"], device)
                print(_line(rows[-1]), flush=True)
    if options.out:
        pq.write_table(pa.Table.from_pylist(rows), options.out)
    return 0


def _stations(options: argparse.Namespace, device: str, dtype: str) -> Iterator[tuple[str, int, Station]]:
    """Steps at every batch size; whole runs, which take minutes on two cores, at the smallest, mini's at every one."""
    for config in options.config:
        peers = Peers(configuration(config), options.side, device, getattr(torch, dtype), options.compiled)
        for batch in options.batch:
            stations = peers.steps(batch)
            if not options.steps and (config == "mini" or batch == min(options.batch)):
                stations += [prior_run(peers, batch), decoder_run(peers, batch)]
            yield from ((config, batch, station) for station in stations)
    if "mini" in options.config and dtype == "float32" and not options.steps:
        chain = Chain(options.side, device)
        yield from (("mini", batch, chain.run(batch)) for batch in options.batch)


_HEAD = "| network | batch | what | ours, s | diffusers, s | ratio | of the product |\n|---|---|---|---|---|---|---|"


def _row(config: str, dtype: str, batch: int, station: Station, times: dict[str, Timed], peak: float) -> dict:
    row = {"config": config, "dtype": dtype, "batch": batch, "what": station.name}
    for who, timed in times.items():
        row |= {who: timed.median, f"{who}_least": timed.least, f"{who}_most": timed.most}
    best = min(timed.median for who, timed in times.items() if who.startswith("ours"))
    for who in ("diffusers", "diffusers compiled"):
        row[f"ratio to {who}"] = times[who].median / best if who in times else None
    return row | {"of_product": station.flops / best / peak}


def _line(row: dict) -> str:
    ratios = [row[f"ratio to {who}"] for who in ("diffusers", "diffusers compiled")]
    cells = [row["config"], row["batch"], row["what"], _seconds(row, "ours"), _seconds(row, "diffusers")]
    cells.append(", ".join(f"{ratio:.2f}" for ratio in ratios if ratio))
    memory = f", {row['peak_gb']:.1f} GB" if row["peak_gb"] else ""
    return f"| {' | '.join(map(str, cells))} | {row['of_product']:.0%}{memory} |"


def _seconds(row: dict, who: str) -> str:
    told = []
    for name in (who, f"{who} compiled"):
        if name in row:
            seconds = f"{row[name]:.3f} ({row[f'{name}_least']:.3f} to {row[f'{name}_most']:.3f})"
            told.append(seconds if name == who else f"compiled {seconds}")
    return ", ".join(told)


def _versions() -> str:
    found = []
    for name in ("torch", "transformers", "diffusers"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.bench", description="Time our networks.")
    parser.add_argument("--config", nargs="+", choices=CONFIGS, default=["mini", "mid"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument(
        "--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"]
    )
    parser.add_argument("--side", type=int, default=1024, help="pixels (default 1024)")
    parser.add_argument("--turns", type=int, default=5, help="of each of the two (default 5)")
    parser.add_argument("--steps", action="store_true", help="one pass of each network, no whole runs")
    parser.add_argument("--compiled", action="store_true", help="time torch.compile of both as well")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table as Parquet")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
