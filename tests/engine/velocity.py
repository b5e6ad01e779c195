"""diffusers' pipelines around a model that predicts velocity, which their scheduler does not know.

`VelocityUNet` is the whole difference: it answers with the noise that its velocity stands for.
"""

from pathlib import Path
from typing import Any

from diffusers.models.unets.unet_stable_cascade import StableCascadeUNet
from diffusers.schedulers.scheduling_ddpm_wuerstchen import DDPMWuerstchenScheduler
from torch import Tensor

from tests.engine.oracle import decoder_pipeline, prior_pipeline

SCHEDULER = DDPMWuerstchenScheduler()


class VelocityUNet(StableCascadeUNet):
    def forward(self, sample: Tensor, timestep_ratio: Tensor, *rest: Any, **named: Any) -> tuple[Tensor]:
        velocity = super().forward(sample, timestep_ratio, *rest, **named)[0]
        signal = SCHEDULER._alpha_cumprod(timestep_ratio, sample.device).view(-1, 1, 1, 1)
        return (signal.sqrt() * velocity + (1 - signal).sqrt() * sample,)


def their_pipelines(model: Path) -> tuple[Any, Any]:
    """The prior and the decoder pipeline of a model folder, float32 on the CPU."""
    return (
        prior_pipeline(VelocityUNet.from_pretrained(model / "prior"), model=model),
        decoder_pipeline(VelocityUNet.from_pretrained(model / "decoder"), model=model),
    )
