"""The noise schedule and its reverse steps: plain float32 numbers for a whole rendering at once.

Time runs from ratio 1 (noise) to 0 (image). The share of signal in the variance is the cosine schedule of
Nichol and Dhariwal (2021), ᾱ(t) = cos²((t + s)/(1 + s) · π/2) / cos²(s/(1 + s) · π/2), s = 0.008, clamped to
0.0001..0.9999. One step back from t to t' with α = ᾱ(t)/ᾱ(t') is the ancestral step of DDPM (Ho et al. 2020):

    x' = (x - (1 - α)/√(1 - ᾱ(t)) · ε) / √α + √((1 - α)(1 - ᾱ(t'))/(1 - ᾱ(t))) · noise

The last step, to 0, adds no noise. Every other way of stepping is as linear in x, ε and noise, and is kept in the
same three weights. With x0 = (x - √(1 - ᾱ)·ε)/√ᾱ, DDIM (Song et al. 2021) is x' = √ᾱ'·x0 + √(1 - ᾱ')·ε, and LCM
(Luo et al. 2023) is x' = √ᾱ'·x0 + √(1 - ᾱ')·noise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cascade_batch.errors import SpecError
from cascade_batch.model.sampling import StageSampling

DIFFUSERS = StageSampling()
OFFSET = 0.008
LEAST, MOST = 0.0001, 0.9999
"""Limits of ᾱ."""


def signal_share(ratios: Tensor) -> Tensor:
    """ᾱ at the given time ratios, float32."""
    offset = torch.tensor(OFFSET, dtype=torch.float32, device="cpu")
    start = torch.cos(offset / (1 + offset) * math.pi * 0.5) ** 2
    share = torch.cos((ratios + offset) / (1 + offset) * math.pi * 0.5) ** 2 / start
    return share.clamp(LEAST, MOST)


def shifted(signal: Tensor, shift: float) -> Tensor:
    """ᾱ at a signal-to-noise ratio shift² times smaller (Hoogeboom et al. 2023), within the same limits."""
    return torch.sigmoid(torch.logit(signal) - 2 * math.log(shift)).clamp(LEAST, MOST)


def ratio_of(signal: Tensor) -> Tensor:
    """The time ratio at which ᾱ is `signal`, the inverse of `signal_share`."""
    start = math.cos(OFFSET / (1 + OFFSET) * math.pi * 0.5) ** 2
    angle = torch.acos((signal * start).sqrt().clamp(0, 1))
    return angle / (math.pi * 0.5) * (1 + OFFSET) - OFFSET


@dataclass(frozen=True)
class Schedule:
    """The steps of one rendering. All tensors are (steps,) float32 on the CPU."""

    times: Tensor
    """The time ratio at which each step begins."""
    ratios: Tensor
    """The time ratio that the network is told."""
    signal: Tensor
    growth: Tensor
    """What a step multiplies by; 1/√α in DDPM."""
    epsilon_weight: Tensor
    noise_weight: Tensor
    draws_noise: bool = True
    """Whether steps add noise, all but the last."""

    def __len__(self) -> int:
        return len(self.ratios)

    def previous(self, latents: Tensor, epsilon: Tensor, noise: Tensor | None, step: int) -> Tensor:
        """The latents one step closer to the image; `noise` None adds none."""
        mean = self.growth[step].item() * (latents - self.epsilon_weight[step].item() * epsilon)
        return mean if noise is None else mean + self.noise_weight[step].item() * noise

    def noised(self, clean: Tensor, noise: Tensor, step: int) -> Tensor:
        """Clean latents with as much noise as a step begins with; as they are, after the last one."""
        if step == len(self):
            return clean
        signal = self.signal[step].item()
        return signal**0.5 * clean + (1 - signal) ** 0.5 * noise


def time_ratios(steps: int, strength: float = 1.0, timesteps: Sequence[float] | None = None) -> Tensor:
    """Where each step begins and the last one ends, (steps + 1,) float32, from at most 1 down to 0.

    Equal steps from time 1; with a `strength` below 1 that share of them, from that time. Or the given ones.
    """
    if timesteps is None:
        taken = max(1, int(steps * strength + 1e-6))  # 100 * 0.29 is a hair less than 29
        return torch.linspace(strength, 0.0, taken + 1, dtype=torch.float32, device="cpu")
    ended = [*timesteps, 0.0] if timesteps and timesteps[-1] > 0 else timesteps
    given = torch.tensor(ended, dtype=torch.float32, device="cpu")
    if len(given) < 2 or given[0] > 1 or given[-1] < 0 or not bool((given.diff() < 0).all()):
        raise SpecError(
            "these are no time steps",
            got=list(timesteps),
            expected="time ratios that fall, from at most 1 to 0, such as 1.0, 0.7, 0.4, 0.1",
        )
    return given


def make_schedule(times: Tensor, sampling: StageSampling = DIFFUSERS) -> Schedule:
    """The schedule of the steps between `time_ratios`, one network evaluation each."""
    shares = signal_share(times)
    if sampling.shift != 1:
        shares = shifted(shares, sampling.shift)
    here, next_ = shares[:-1], shares[1:]
    growth, epsilon_weight, noise_weight = _WEIGHTS[sampling.method](here, next_)
    noise_weight[-1] = 0.0
    if sampling.result == "clean":
        growth[-1], epsilon_weight[-1] = here[-1].rsqrt(), (1 - here[-1]).sqrt()
    ratios = ratio_of(here) if sampling.ratio_of_signal else times[:-1]
    return Schedule(times[:-1], ratios, here, growth, epsilon_weight, noise_weight, sampling.method != "ddim")


def _ddpm(here: Tensor, next_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    alpha = here / next_
    noise = ((1 - alpha) * (1 - next_) / (1 - here)).sqrt()
    return (1 / alpha).sqrt(), (1 - alpha) / (1 - here).sqrt(), noise


def _ddim(here: Tensor, next_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    growth = (next_ / here).sqrt()
    return growth, (1 - here).sqrt() - (1 - next_).sqrt() / growth, torch.zeros_like(here)


def _lcm(here: Tensor, next_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return (next_ / here).sqrt(), (1 - here).sqrt(), (1 - next_).sqrt()


_WEIGHTS = {"ddpm": _ddpm, "ddim": _ddim, "lcm": _lcm}
"""Method -> (growth, weight of ε, weight of noise) of each step."""
