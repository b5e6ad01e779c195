"""How a stage is sampled: plain settings that the spec names, the networks follow and the stage keys hash.

Two presets. `diffusers` is what the published pipelines do. `original` is what the notebooks of the original release
do: a schedule shifted towards noise for Stage C, guidance rescaled to the conditional prediction's spread, a little
guidance for Stage B, Stage A's latents at the scale that Stage B was trained with, and as the result the last
prediction of the clean latents.
"""

from dataclasses import dataclass, field, replace
from typing import overload

import numpy as np

METHODS = ("ddpm", "ddim", "lcm")
RESULTS = ("latents", "clean")


@dataclass(frozen=True, kw_only=True)
class StageSampling:
    method: str = "ddpm"
    """ddpm: ancestral steps (Ho et al. 2020); ddim: no noise added (Song et al. 2021); lcm: from the clean prediction,
    noised afresh (Luo et al. 2023), for distilled weights."""
    shift: float = 1.0
    """Divides the signal's amplitude over the noise's: 2 spends more steps on what is where."""
    guidance_rescale: float = 0.0
    """How much of the guided prediction gets the conditional one's standard deviation (Lin et al. 2024)."""
    guidance_end: float | None = None
    """Guidance scale at time 0, from the image's own at time 1 in a straight line; None: the same all along."""
    guidance_from: float = 1.0
    guidance_to: float = 0.0
    """Guidance is on at time ratios within these; elsewhere the conditional prediction stands alone."""
    result: str = "latents"
    """latents: what the last step leaves; clean: the last prediction of the clean latents."""
    ratio_of_signal: bool = False
    """Tell the network the time ratio of the signal that is there, after shift and clamp, instead of the step's own."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    c: StageSampling = field(default_factory=StageSampling)
    ba: StageSampling = field(default_factory=StageSampling)
    stage_a_scale: float | None = None
    """Factor on Stage B's latents; None: the checkpoint's `scale_factor`."""
    stage_a_tile: int | None = None
    """Side in pixels of the parts of a picture that Stage A decodes one after the other; None: the whole at once."""
    decoder_guidance_scale: float = 0.0
    """Of prompts that do not say, if the spec does not either."""


@overload
def guides(scale: float) -> bool: ...
@overload
def guides(scale: np.ndarray) -> np.ndarray: ...
def guides(scale: float | np.ndarray) -> bool | np.ndarray:
    """Whether a guidance scale is on: above 1, as in the published pipelines. Of an array, (n,) bool."""
    return scale > 1


_ORIGINAL = StageSampling(guidance_rescale=0.7, result="clean", ratio_of_signal=True)

PRESETS = {
    "diffusers": Sampling(),
    "original": Sampling(
        c=replace(_ORIGINAL, shift=2.0),
        ba=_ORIGINAL,
        stage_a_scale=0.43,
        decoder_guidance_scale=1.1,
    ),
}
