"""Where the time of a network goes, operator by operator.

Run:  python -m jobs.bench.operators [--config mid] [--batch 1] [--dtype float32] [--network ours diffusers]

Prints, for one Stage C step, one Stage B step and one Stage A decode, each operator's own seconds and share, the
largest first. Shares are of the operators' time alone, without Python between them.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from cascade_batch.engine.devices import keep_freed_memory, pick_device
from jobs.bench.peers import Peers, configuration

SHOWN = 0.02
"""Operators below this share stand together as "the rest"."""


def main(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    keep_freed_memory()
    device, dtype = pick_device(), getattr(torch, arguments.dtype)
    with torch.inference_mode():
        peers = Peers(configuration(arguments.config), arguments.side, device, dtype)
        for station in peers.steps(arguments.batch):
            for name in arguments.network:
                if name in station.runs:
                    _print(f"{station.name}, {name}", own_seconds(station.runs[name], device))
    return 0


def own_seconds(run: Callable[[], Any], device: str) -> dict[str, float]:
    """Seconds in each operator itself during one run, after one that does not count; the largest first."""
    run()
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device != "cpu" else [])
    with profile(activities=kinds) as profiler:
        run()
    events = profiler.key_averages()
    spent = {e.key: (e.self_cpu_time_total if device == "cpu" else e.self_device_time_total) for e in events}
    return {name: us / 1e6 for name, us in sorted(spent.items(), key=lambda entry: -entry[1])}


def _print(title: str, seconds: dict[str, float]) -> None:
    total = sum(seconds.values())
    print(f"\n| {title} | s | share |\n|---|---|---|")
    shown = {name: s for name, s in seconds.items() if s >= SHOWN * total}
    for name, spent in shown.items():
        print(f"| `{name}` | {spent:.3f} | {spent / total:.0%} |")
    rest = total - sum(shown.values())
    print(f"| the rest | {rest:.3f} | {rest / total:.0%} |\n| all | {total:.3f} | |", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.bench.operators", description="Profile our networks."
    )
    parser.add_argument("--config", default="mid")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--side", type=int, default=1024, help="pixels (default 1024)")
    parser.add_argument("--network", nargs="+", choices=("ours", "diffusers"), default=["ours", "diffusers"])
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
