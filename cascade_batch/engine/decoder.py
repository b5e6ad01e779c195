"""Stage B and Stage A: embeddings to pixels, a batch at a time (see `prior.py`)."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from cascade_batch.engine.arrays import to_pixels, to_tensor
from cascade_batch.engine.batch_checks import check_decoded, check_lengths, check_shape
from cascade_batch.engine.batches import DecodedImages, DecoderBatch
from cascade_batch.engine.evaluating import evaluated
from cascade_batch.engine.loading.checkpoints import load_stage_a, load_stage_b
from cascade_batch.engine.networks.stage_a import StageA
from cascade_batch.engine.networks.stage_b import StageB
from cascade_batch.engine.sampler import (
    Generators,
    ImageNoise,
    OnStep,
    Start,
    denoise,
    generators_of,
    is_guided,
)
from cascade_batch.engine.schedule import make_schedule, time_ratios
from cascade_batch.model.geometry import latent_side
from cascade_batch.model.parts import PartFiles


class Decoder:
    """Stage B and Stage A."""

    def __init__(self, stage_b: StageB, stage_a: StageA, device: str) -> None:
        self._stage_b, self._stage_a, self._device = stage_b, stage_a, device

    @classmethod
    def load(cls, parts: Mapping[str, PartFiles], dtype: str, device: str) -> "Decoder":
        """From the parts "stage_b" and "stage_a". Raises WeightsError."""
        b, a = parts["stage_b"], parts["stage_a"]
        return cls(
            load_stage_b(b.config, b.files, dtype, device),
            load_stage_a(a.config, a.files, dtype, device),
            device,
        )

    @property
    def pooled_channels(self) -> int:
        """Length of the pooled text states that Stage B takes."""
        return self._stage_b.config.clip_text_pooled_in_channels

    @torch.inference_mode()
    def render(self, batch: DecoderBatch) -> DecodedImages:
        """Pixels of exactly `height` x `width`."""
        latents = self.latents(batch)
        # One image at a time: Stage A's activations are the largest of all and gain nothing from a batch.
        images = [
            to_pixels(self.decode(latent, batch.stage_a_scale, batch.stage_a_tile))
            for latent in latents.split(1)
        ]
        pixels, has_nan, has_infinite = zip(*images, strict=True)
        return DecodedImages(np.concatenate(pixels), list(has_nan), list(has_infinite))

    @evaluated
    def decode(self, latents: Tensor, scale: float | None = None, tile: int | None = None) -> Tensor:
        """Stage A alone: pixels (B, 3, 4 h, 4 w), float32, nominally 0..1, of latents (B, 4, h, w)."""
        return self._stage_a.decode(latents.to(self._device), scale, tile)

    @evaluated
    def latents(
        self, batch: DecoderBatch, generators: Generators | None = None, on_step: OnStep | None = None
    ) -> Tensor:
        """Stage B alone: latents (B, 4, height / 4, width / 4), float32, before Stage A scales them.

        `generators` draw the noise instead of those of the batch's seeds.
        """
        count, net = len(batch.embeddings), self._stage_b
        check_lengths(count, batch.pooled, batch.negative_pooled, batch.seeds, batch.guidance)
        check_decoded(batch, net.config)
        pooled, embeddings = to_tensor(batch.pooled, self._device), to_tensor(batch.embeddings, self._device)
        if is_guided(batch.guidance):
            pooled = torch.cat([pooled, to_tensor(batch.negative_pooled, self._device)])
            embeddings = torch.cat([embeddings, torch.zeros_like(embeddings)])
        schedule = make_schedule(time_ratios(batch.steps, timesteps=batch.timesteps), batch.sampling)
        shape = (net.config.in_channels, latent_side(batch.height), latent_side(batch.width))
        first = None if batch.latents is None else to_tensor(batch.latents, self._device)
        check_shape("latents", first, (count, *shape))
        prepared = net.prepare(pooled, embeddings, schedule.ratios.to(self._device), shape[1:])
        alone = prepared.first(count)
        noise = generators_of(batch.seeds) if generators is None else generators
        return denoise(
            lambda latents, step, guided: net.step(latents, prepared if guided else alone, step),
            schedule,
            ImageNoise(noise, shape, self._device, count, ends=generators is None),
            guidance=batch.guidance,
            prediction_type=net.config.prediction_type,
            sampling=batch.sampling,
            start=Start(first),
            on_step=on_step,
        )
