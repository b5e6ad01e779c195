"""Our networks and diffusers', with the same weights, and the runs of both that a benchmark times."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from cascade_batch import cost
from cascade_batch.geometry import embedding_side, latent_side
from cascade_batch.models.config import (
    STAGE_A,
    STAGE_B,
    STAGE_C,
    StageAConfig,
    UNetConfig,
    parse_stage_a,
    parse_unet,
)
from cascade_batch.models.sampler import ImageNoise, denoise, generators_of
from cascade_batch.models.schedule import make_schedule, time_ratios
from cascade_batch.models.stage_a import StageA
from cascade_batch.models.stage_b import StageB
from cascade_batch.models.stage_c import StageC
from cascade_batch.spec import ModelSpec
from cascade_batch.weights import locate, read_config

STEPS_C, STEPS_B, TOKENS = 20, 10, 77


@dataclass(frozen=True)
class Configuration:
    """Three networks to compare."""

    stage_c: UNetConfig
    stage_b: UNetConfig
    stage_a: StageAConfig


@dataclass(frozen=True)
class Station:
    """One thing that is timed: what it is, its FLOPs, and who does it."""

    name: str
    flops: float
    runs: dict[str, Callable[[], Any]]


def configuration(name: str) -> Configuration:
    """mini, the embedded model; mid, about 50 and 20 million parameters; published, the full sizes."""
    if name == "mini":
        parts = locate(ModelSpec(name="mini"))
        c, b, a = (read_config(parts[part]) for part in ("stage_c", "stage_b", "stage_a"))
        return Configuration(parse_unet(c), parse_unet(b), parse_stage_a(a))
    if name == "published":
        return Configuration(STAGE_C, STAGE_B, STAGE_A)
    stage_c = replace(
        STAGE_C,
        conditioning_dim=512,
        block_out_channels=(512, 512),
        num_attention_heads=(8, 8),
        down_num_layers_per_block=(2, 5),
        up_num_layers_per_block=(5, 2),
    )
    stage_b = replace(
        STAGE_B,
        conditioning_dim=512,
        block_out_channels=(96, 192, 384, 384),
        num_attention_heads=(0, 0, 6, 6),
        down_num_layers_per_block=(1, 2, 4, 2),
        up_num_layers_per_block=(2, 4, 2, 1),
        up_blocks_repeat_mappers=(2, 2, 2, 2),
    )
    return Configuration(stage_c, stage_b, replace(STAGE_A, embed_dim=192, bottleneck_blocks=6))


class Peers:
    """The three pairs of networks on one device, in one dtype, at one picture size."""

    def __init__(self, sizes: Configuration, side: int, device: str, dtype: torch.dtype) -> None:
        self._sizes, self._side, self._device, self._dtype = sizes, side, device, dtype
        classes = _their_classes()
        self._c = self._pair(StageC(sizes.stage_c), classes and classes[0](**_theirs(sizes.stage_c)))
        self._b = self._pair(StageB(sizes.stage_b), classes and classes[0](**_theirs(sizes.stage_b)))
        self._a = self._pair(StageA(sizes.stage_a), classes and classes[1](**asdict(sizes.stage_a)))

    def steps(self, batch: int) -> list[Station]:
        """One pass of each network."""
        return [self._stage_c(batch), self._stage_b(batch), self._stage_a(batch)]

    def stations(self, batch: int) -> list[Station]:
        """What is timed at a batch size."""
        return [*self.steps(batch), self._prior(batch)]

    def _pair(self, ours: nn.Module, theirs: nn.Module | None) -> tuple[Any, Any]:
        torch.manual_seed(0)
        for parameter in ours.parameters():
            nn.init.normal_(parameter, std=0.02)
        if theirs is not None:
            theirs.load_state_dict(ours.state_dict())
        ready = [
            net and net.to(self._device, self._dtype).eval().requires_grad_(False) for net in (ours, theirs)
        ]
        return ready[0], ready[1]

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self._device)

    def _stage_c(self, batch: int) -> Station:
        ours, theirs = self._c
        side, config = embedding_side(self._side), self._sizes.stage_c
        latents, text, pooled = self._noise(batch, 16, side, side), *self._texts(batch)
        ratio = torch.full((batch,), 0.5, device=self._device)
        prepared = ours.prepare(text, pooled, ratio[:1])
        pictures = torch.zeros(batch, 1, config.clip_image_in_channels or 0, device=self._device)
        asked = [t.to(self._dtype) for t in (latents, ratio, pooled[:, None], text, pictures)]
        runs = {"ours": lambda: ours.step(latents, prepared, 0)}
        if theirs is not None:
            runs["diffusers"] = lambda: theirs(*asked)
        return Station("Stage C step", batch * self._flops_c(1, guided=False), runs)

    def _stage_b(self, batch: int) -> Station:
        ours, theirs = self._b
        side, cells = latent_side(self._side), embedding_side(self._side)
        latents, embeddings = self._noise(batch, 4, side, side), self._noise(batch, 16, cells, cells)
        _, pooled = self._texts(batch)
        ratio = torch.full((batch,), 0.5, device=self._device)
        prepared = ours.prepare(pooled, embeddings, ratio[:1], (side, side))
        asked = [t.to(self._dtype) for t in (latents, ratio, pooled[:, None])]
        effnet = embeddings.to(self._dtype)
        runs = {"ours": lambda: ours.step(latents, prepared, 0)}
        if theirs is not None:
            runs["diffusers"] = lambda: theirs(*asked, effnet=effnet)
        flops = cost.stage_b_flops(asdict(self._sizes.stage_b), self._side, self._side, 1, False)
        return Station("Stage B step", batch * flops, runs)

    def _stage_a(self, batch: int) -> Station:
        ours, theirs = self._a
        side = latent_side(self._side)
        latents = self._noise(batch, 4, side, side)
        scaled = (latents * self._sizes.stage_a.scale_factor).to(self._dtype)
        runs: dict[str, Callable[[], Any]] = {
            "ours": lambda: [ours.decode(latent) for latent in latents.split(1)]
        }
        if theirs is not None:
            runs["diffusers"] = lambda: theirs.decode(scaled)
        flops = cost.stage_a_flops(asdict(self._sizes.stage_a), self._side, self._side)
        return Station("Stage A decode", batch * flops, runs)

    def _prior(self, batch: int) -> Station:
        """A whole run of Stage C with guidance, texts encoded before, each in its own loop."""
        ours, theirs = self._c
        side = embedding_side(self._side)
        text, pooled = self._texts(2 * batch)
        schedule = make_schedule(time_ratios(STEPS_C))

        def our_run() -> Tensor:
            prepared = ours.prepare(text, pooled, schedule.ratios.to(self._device))
            alone = prepared.first(batch)
            noise = ImageNoise(generators_of(range(batch)), (16, side, side), self._device)
            return denoise(
                lambda x, step, guided: ours.step(x, prepared if guided else alone, step),
                schedule,
                noise,
                [4.0] * batch,
            )

        runs: dict[str, Callable[[], Any]] = {"ours": our_run}
        if theirs is not None:
            runs["diffusers"] = lambda: self._their_prior(theirs, text, pooled, batch)
        return Station(f"prior, {STEPS_C} steps", batch * self._flops_c(STEPS_C, guided=True), runs)

    def _their_prior(self, net: Any, text: Tensor, pooled: Tensor, batch: int) -> Tensor:
        """The loop of their pipeline around their network and scheduler."""
        from diffusers.schedulers.scheduling_ddpm_wuerstchen import DDPMWuerstchenScheduler

        scheduler: Any = DDPMWuerstchenScheduler()
        side = embedding_side(self._side)
        scheduler.set_timesteps(STEPS_C, device=self._device)
        generators = generators_of(range(batch))
        latents = torch.cat([torch.randn(1, 16, side, side, generator=g) for g in generators])
        latents = latents.to(self._device, self._dtype)
        width = self._sizes.stage_c.clip_image_in_channels or 0
        pictures = torch.zeros(2 * batch, 1, width, device=self._device, dtype=self._dtype)
        states, state = text.to(self._dtype), pooled[:, None].to(self._dtype)
        for time in scheduler.timesteps[:-1]:
            ratio = time.expand(2 * batch).to(self._dtype)
            predicted = net(torch.cat([latents] * 2), ratio, state, states, pictures).sample
            conditional, unconditional = predicted.chunk(2)
            mixed = torch.lerp(unconditional, conditional, 4.0)
            latents = scheduler.step(mixed, ratio[:batch], latents, generators).prev_sample
        return latents

    def _texts(self, rows: int) -> tuple[Tensor, Tensor]:
        config = self._sizes.stage_c
        return (
            self._noise(rows, TOKENS, config.clip_text_in_channels or 0),
            self._noise(rows, config.clip_text_pooled_in_channels),
        )

    def _flops_c(self, steps: int, guided: bool) -> float:
        return cost.stage_c_flops(asdict(self._sizes.stage_c), self._side, self._side, steps, guided)


def _their_classes() -> tuple[type, type] | None:
    """diffusers' networks, None where it is not installed."""
    try:
        from diffusers.models.unets.unet_stable_cascade import StableCascadeUNet
        from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
        from diffusers.utils import logging
    except ImportError:
        return None
    logging.set_verbosity_error()
    return StableCascadeUNet, PaellaVQModel


def _theirs(config: UNetConfig) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in fields(config) if f.name != "prediction_type"}
