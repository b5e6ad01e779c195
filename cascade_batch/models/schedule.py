"""The noise schedule and its reverse steps: plain float32 numbers for a whole rendering at once.

Time runs from ratio 1 (noise) to 0 (image). The share of signal in the variance is the cosine schedule of
Nichol and Dhariwal (2021), ᾱ(t) = cos²((t + s)/(1 + s) · π/2) / cos²(s/(1 + s) · π/2), s = 0.008, clamped to
0.0001..0.9999. One step back from t to t' with α = ᾱ(t)/ᾱ(t') is the ancestral step of DDPM (Ho et al. 2020):

    x' = (x - (1 - α)/√(1 - ᾱ(t)) · ε) / √α + √((1 - α)(1 - ᾱ(t'))/(1 - ᾱ(t))) · noise

The last step, to 0, adds no noise.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

OFFSET = 0.008


def signal_share(ratios: Tensor) -> Tensor:
    """ᾱ at the given time ratios, float32."""
    offset = torch.tensor(OFFSET)
    start = torch.cos(offset / (1 + offset) * math.pi * 0.5) ** 2
    share = torch.cos((ratios + offset) / (1 + offset) * math.pi * 0.5) ** 2 / start
    return share.clamp(0.0001, 0.9999)


@dataclass(frozen=True)
class Schedule:
    """The steps of one rendering. All tensors are (steps,) float32 on the CPU."""

    ratios: Tensor
    signal: Tensor
    growth: Tensor
    """1/√α: what a step multiplies by."""
    epsilon_weight: Tensor
    noise_weight: Tensor

    def __len__(self) -> int:
        return len(self.ratios)

    def previous(self, latents: Tensor, epsilon: Tensor, noise: Tensor | None, step: int) -> Tensor:
        """The latents one step closer to the image; `noise` None adds none."""
        mean = self.growth[step].item() * (latents - self.epsilon_weight[step].item() * epsilon)
        return mean if noise is None else mean + self.noise_weight[step].item() * noise


def make_schedule(steps: int) -> Schedule:
    """The schedule of `steps` equal time steps, `steps` network evaluations."""
    times = torch.linspace(1.0, 0.0, steps + 1)
    shares = signal_share(times)
    here, next_ = shares[:-1], shares[1:]
    alpha = here / next_
    noise = ((1 - alpha) * (1 - next_) / (1 - here)).sqrt()
    noise[-1] = 0.0
    return Schedule(
        ratios=times[:-1],
        signal=here,
        growth=(1 / alpha).sqrt(),
        epsilon_weight=(1 - alpha) / (1 - here).sqrt(),
        noise_weight=noise,
    )
