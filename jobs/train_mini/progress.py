"""What a training keeps between steps and starts: optimizers, averaged weights, a log, checkpoints."""

import json
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer


def optimizers(networks: Iterable[nn.Module], rate: float) -> list[Optimizer]:
    """Muon for the matrices between hidden layers, AdamW for everything else (Jordan et al. 2024)."""
    matrices, others = [], []
    for network in networks:
        for name, parameter in network.named_parameters():
            hidden = parameter.ndim == 2 and "embedding" not in name
            (matrices if hidden else others).append(parameter)
    adjusted = {"adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.01}
    return [Muon(matrices, lr=rate, **adjusted), AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)]


class Average:
    """Exponential moving average of weights, faster while young."""

    def __init__(self, networks: Iterable[nn.Module], keep: float = 0.999) -> None:
        self.networks, self.keep = list(networks), keep
        self.weights = [[p.detach().clone() for p in n.parameters()] for n in self.networks]

    @torch.no_grad()
    def update(self, step: int) -> None:
        keep = min(self.keep, (step + 1) / (step + 10))
        for network, weights in zip(self.networks, self.weights, strict=True):
            for weight, parameter in zip(weights, network.parameters(), strict=True):
                weight.lerp_(parameter, 1 - keep)


class Journal:
    """One JSON line per report, on the screen and in a file."""

    def __init__(self, path: Path, seconds: float = 0.0) -> None:
        self._path, self._start = path, time.monotonic() - seconds

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def write(self, **entries: object) -> None:
        line = json.dumps({**entries, "seconds": round(self.seconds)})
        print(line, flush=True)
        with self._path.open("a") as log:
            log.write(line + "\n")


def save(path: Path, step: int, seconds: float, average: Average, steppers: list[Optimizer]) -> None:
    state = {
        "step": step,
        "seconds": seconds,
        "networks": [network.state_dict() for network in average.networks],
        "average": average.weights,
        "optimizers": [stepper.state_dict() for stepper in steppers],
    }
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def resume(path: Path, average: Average, steppers: list[Optimizer]) -> tuple[int, float]:
    """Steps done and seconds spent; 0, 0 where nothing was saved."""
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    for network, stored in zip(average.networks, state["networks"], strict=True):
        network.load_state_dict(stored)
    average.weights = state["average"]
    for stepper, stored in zip(steppers, state["optimizers"], strict=True):
        stepper.load_state_dict(stored)
    return state["step"], state["seconds"]


def averaged(checkpoint: Path, *networks: nn.Module) -> int:
    """Put a checkpoint's averaged weights into the networks; the step it was taken at."""
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    for network, stored, weights in zip(networks, state["networks"], state["average"], strict=True):
        network.load_state_dict(stored)  # for what is no parameter, such as batch statistics
        for parameter, weight in zip(network.parameters(), weights, strict=True):
            parameter.data.copy_(weight)
    return state["step"]
