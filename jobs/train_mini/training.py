"""The loop that trains each stage, and what the stages' losses have in common.

Starting the same command again goes on from the last checkpoint.
"""

import argparse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cascade_batch.engine.networks.unet import Prepared
from jobs.train_mini.progress import Average, Journal, optimizers, resume, save

EVERY = 200
"""Steps from one report and checkpoint to the next."""
Loss = Callable[[slice], Tensor]
"""The loss of a part of a batch; the losses of its parts add up to that of the whole."""


@dataclass(frozen=True)
class Course:
    """How a stage is trained; each field is an option of its command."""

    out: Path
    steps: int
    until: int = 10**9
    seed: int = 1
    rate: float = 2e-3
    threads: int = 1


class Stage(Protocol):
    """What `fit` asks of a stage."""

    networks: list[nn.Module]
    batch: int

    def draw(self, rng: Random, done: float, /) -> Loss:
        """A random batch, after a share `done` of the steps."""
        ...

    def report(self) -> dict[str, object]:
        """What the log tells besides the loss."""
        ...


def read_course(about: str | None, steps: int) -> Course:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/mini"), help="checkpoints and logs")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--until", type=int, default=Course.until, help="stop at this step, to go on later")
    parser.add_argument("--seed", type=int, default=Course.seed)
    parser.add_argument("--rate", type=float, default=Course.rate)
    parser.add_argument("--threads", type=int, default=1, help="parts of a batch learned side by side")
    torch.set_num_threads(1)
    return Course(**vars(parser.parse_args()))


def fit(stage: Stage, checkpoint: Path, course: Course) -> None:
    """Train up to the last step, or to `until`."""
    steppers, average = optimizers(stage.networks, course.rate), Average(stage.networks)
    first, seconds = resume(checkpoint, average, steppers)
    rng, journal = seeded(course.seed + first), Journal(checkpoint.with_suffix(".log"), seconds)
    losses, last = [], min(course.until, course.steps)
    parts = parts_of(stage.batch, course.threads)
    with ThreadPoolExecutor(course.threads, initializer=torch.set_num_threads, initargs=(1,)) as threads:
        for step in range(first, last):
            loss = stage.draw(rng, step / course.steps)
            losses.append(sum(threads.map(lambda part, loss=loss: _learn(loss, part), parts)))
            advance(steppers, stage.networks, course.rate * rate_at(step, course.steps))
            average.update(step)
            if (step + 1) % EVERY == 0 or step + 1 == last:
                journal.write(step=step + 1, loss=round(sum(losses) / len(losses), 5), **stage.report())
                save(checkpoint, step + 1, journal.seconds, average, steppers)
                losses.clear()


def parts_of(count: int, parts: int) -> list[slice]:
    """`count` as slices of nearly one size."""
    edges = [count * part // parts for part in range(parts + 1)]
    return [slice(*pair) for pair in pairwise(edges)]


def _learn(loss: Loss, part: slice) -> float:
    """Add the gradients of a part. One part a core learns faster than one batch on all cores."""
    value = loss(part)
    value.backward()
    return value.item()


def advance(steppers: list[Optimizer], networks: list[nn.Module], rate: float) -> None:
    nn.utils.clip_grad_norm_([p for network in networks for p in network.parameters()], 1.0)
    for stepper in steppers:
        for group in stepper.param_groups:
            group["lr"] = rate
        stepper.step()
        stepper.zero_grad()


def rate_at(step: int, steps: int, warm: int = 100, decay: float = 0.4) -> float:
    """Factor on the learning rate: a short rise, constant, and a straight fall over the last part."""
    return min(1.0, (step + 1) / warm, max(0.01, (steps - step) / (decay * steps)))


def seeded(seed: int) -> Random:
    torch.manual_seed(seed)
    return Random(seed)


def per_image(prepared: Prepared, count: int) -> Prepared:
    """What was prepared for `count` steps of one batch, as one step of `count` images at times of their own."""
    modulations = {
        block: tuple(part.view(1, count, 1, 1, -1) for part in pair)
        for block, pair in prepared.modulations.items()
    }
    return replace(prepared, modulations=modulations)


def noised(latents: Tensor, signal: Tensor) -> tuple[Tensor, Tensor]:
    """Latents at a share of signal (batch,), and the velocity to predict there."""
    noise = torch.randn_like(latents)
    signal = signal.view(-1, 1, 1, 1)
    seen = signal.sqrt() * latents + (1 - signal).sqrt() * noise
    return seen, signal.sqrt() * noise - (1 - signal).sqrt() * latents
