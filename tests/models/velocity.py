"""diffusers' pipelines around a model that predicts velocity, which their scheduler does not know.

`VelocityUNet` is the whole difference: it answers with the noise that its velocity stands for.
"""

from pathlib import Path
from typing import Any

from diffusers.models.unets.unet_stable_cascade import StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from diffusers.pipelines.stable_cascade.pipeline_stable_cascade import StableCascadeDecoderPipeline
from diffusers.pipelines.stable_cascade.pipeline_stable_cascade_prior import StableCascadePriorPipeline
from diffusers.schedulers.scheduling_ddpm_wuerstchen import DDPMWuerstchenScheduler
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from tests.models.oracle import quiet

SCHEDULER = DDPMWuerstchenScheduler()


class VelocityUNet(StableCascadeUNet):
    def forward(self, sample: Tensor, timestep_ratio: Tensor, *rest: Any, **named: Any) -> tuple[Tensor]:
        velocity = super().forward(sample, timestep_ratio, *rest, **named)[0]
        signal = SCHEDULER._alpha_cumprod(timestep_ratio, sample.device).view(-1, 1, 1, 1)
        return (signal.sqrt() * velocity + (1 - signal).sqrt() * sample,)


def their_pipelines(model: Path) -> tuple[Any, Any]:
    """The prior and the decoder pipeline of a model folder, float32 on the CPU."""
    quiet()
    text = {
        "tokenizer": CLIPTokenizer.from_pretrained(model / "tokenizer"),
        "text_encoder": CLIPTextModelWithProjection.from_pretrained(model / "text_encoder").float(),
        "scheduler": DDPMWuerstchenScheduler.from_pretrained(model / "scheduler"),
    }
    prior = StableCascadePriorPipeline(prior=VelocityUNet.from_pretrained(model / "prior"), **text)
    decoder = StableCascadeDecoderPipeline(
        decoder=VelocityUNet.from_pretrained(model / "decoder"),
        vqgan=PaellaVQModel.from_pretrained(model / "vqgan"),
        **text,
    )
    for pipeline in (prior, decoder):
        pipeline.set_progress_bar_config(disable=True)
    return prior, decoder
