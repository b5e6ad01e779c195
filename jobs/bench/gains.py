"""What each means of speed gains on a CPU: the networks as they are beside themselves with one of them taken out.

Run:  python -m jobs.bench.gains [--config mid] [--batch 1] [--dtype float32 bfloat16] [--turns 5]

All variants of a network take turns in one process. Prints the median seconds as it is, and how much longer each of the
others takes; which means a network does not use gains 0 %, up to the noise of the machine.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from cascade_batch.engine.devices import keep_freed_memory
from cascade_batch.engine.networks import blocks, kernels
from cascade_batch.engine.networks.stage_a import MixingBlock
from jobs.bench.peers import Peers, configuration
from jobs.bench.timing import alternating


def _plain_norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=torch.float32)


def _fresh(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(shift, x, scale)


def _unfolded(block: MixingBlock, x: Tensor) -> Tensor:
    """The block as it is written down: scale, shift and gate in passes of their own."""
    scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = block.gammas
    x = x + block.depthwise(block.norm(x) * (1 + scale_1) + shift_1) * gate_1
    widen, narrow = blocks.linear_layers(block.channelwise)
    hidden = kernels.linear_gelu(block.norm(x) * (1 + scale_2) + shift_2, widen.weight, widen.bias)
    return x + kernels.linear(hidden, narrow.weight, narrow.bias) * gate_2


MEANS: dict[str, list[tuple[Any, str, Any]]] = {
    "products that take in GELU and residual": [
        (module, name, plain)
        for module in (kernels, blocks, sys.modules[MixingBlock.__module__])
        for name, plain in {
            "linear": F.linear,
            "linear_gelu": lambda x, weight, bias: F.gelu(F.linear(x, weight, bias)),
            "add_linear": lambda residual, x, weight, bias: residual + F.linear(x, weight, bias),
        }.items()
        if hasattr(module, name)
    ],
    "norms from batch statistics": [(blocks, "position_norm", _plain_norm)],
    "response norm in place": [(blocks, "scale_and_shift", _fresh)],
    "attention as two products (bfloat16)": [(blocks, "attention", F.scaled_dot_product_attention)],
    "Stage A's scalars in its weights": [(MixingBlock, "forward", _unfolded)],
}
"""What is taken out -> what stands in its place, and where."""


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    keep_freed_memory()
    for dtype in options.dtype:
        with torch.inference_mode():
            peers = Peers(configuration(options.config), options.side, "cpu", getattr(torch, dtype))
            print(
                f"\n{options.config}, {dtype}, batch {options.batch}\n\n{_head()}\n|---|---|{'---|' * len(MEANS)}"
            )
            for station in peers.steps(options.batch):
                times = alternating(dict(_variants(station.runs["ours"])), options.turns)
                now = times["as it is"].median
                slower = (f"{times[means].median / now - 1:+.0%}" for means in MEANS)
                print(f"| {station.name} | {now:.3f} | {' | '.join(slower)} |", flush=True)
    return 0


def _head() -> str:
    return f"| without | nothing, s | {' | '.join(MEANS)} |"


def _variants(run: Callable[[], Any]) -> Iterator[tuple[str, Callable[[], Any]]]:
    yield "as it is", run
    for means in MEANS:
        yield means, lambda means=means: _without(means, run)


def _without(means: str, run: Callable[[], Any]) -> Any:
    with _replaced(MEANS[means]):
        return run()


@contextmanager
def _replaced(parts: list[tuple[Any, str, Any]]) -> Iterator[None]:
    with ExitStack() as stack:
        for owner, name, plain in parts:
            stack.enter_context(patch.object(owner, name, plain))
        yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.bench.gains", description="What each means gains.")
    parser.add_argument("--config", default="mid")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"]
    )
    parser.add_argument("--side", type=int, default=1024, help="pixels (default 1024)")
    parser.add_argument("--turns", type=int, default=5)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
