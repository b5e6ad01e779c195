"""Our networks and diffusers', with the same weights, and the runs of both that a benchmark times."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from cascade_batch.engine.networks.stage_a import StageA
from cascade_batch.engine.networks.stage_b import StageB
from cascade_batch.engine.networks.stage_c import StageC
from cascade_batch.model import flops
from cascade_batch.model.config import (
    STAGE_A,
    STAGE_B,
    STAGE_C,
    StageAConfig,
    UNetConfig,
    parse_stage_a,
    parse_unet,
)
from cascade_batch.model.geometry import embedding_side, latent_side
from cascade_batch.settings import ModelSpec
from cascade_batch.weights import locate, read_config

TOKENS = 77


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

    def __init__(
        self, sizes: Configuration, side: int, device: str, dtype: torch.dtype, compiled: bool = False
    ) -> None:
        self._compiled = compiled
        self.sizes, self.side, self.device, self.dtype = sizes, side, device, dtype
        classes = _their_classes()
        unet, vqgan = classes or (None, None)
        self.c = self._pair(lambda: StageC(sizes.stage_c), unet, _theirs(sizes.stage_c))
        self.b = self._pair(lambda: StageB(sizes.stage_b), unet, _theirs(sizes.stage_b))
        self.a = self._pair(lambda: StageA(sizes.stage_a), vqgan, asdict(sizes.stage_a))

    def steps(self, batch: int) -> list[Station]:
        """One pass of each network."""
        stations = [self._stage_c(batch), self._stage_b(batch), self._stage_a(batch)]
        return [self._with_compiled(station) for station in stations] if self._compiled else stations

    def _with_compiled(self, station: Station) -> Station:
        compiled = {f"{who} compiled": torch.compile(run) for who, run in station.runs.items()}
        return replace(station, runs=station.runs | compiled)

    def _pair(self, build: Callable[[], nn.Module], peer: type | None, config: dict) -> tuple[Any, Any]:
        """Our network with random weights, made on the device, and diffusers' with the very same tensors."""
        torch.manual_seed(0)
        with torch.device(self.device):
            ours = build()
            for parameter in ours.parameters():
                nn.init.normal_(parameter, std=0.02)
        ours = ours.to(self.dtype).eval().requires_grad_(False)
        if peer is None:
            return ours, None
        with torch.device("meta"):
            theirs = peer(**config)
        theirs.load_state_dict(ours.state_dict(), assign=True)
        return ours, theirs.eval().requires_grad_(False)

    def noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device)

    def _stage_c(self, batch: int) -> Station:
        ours, theirs = self.c
        side, config = embedding_side(self.side), self.sizes.stage_c
        latents, text, pooled = self.noise(batch, 16, side, side), *self.texts(batch)
        ratio = torch.full((batch,), 0.5, device=self.device)
        prepared = ours.prepare(text, pooled, ratio[:1])
        pictures = torch.zeros(batch, 1, config.clip_image_in_channels or 0, device=self.device)
        asked = [t.to(self.dtype) for t in (latents, ratio, pooled[:, None], text, pictures)]
        runs = {"ours": lambda: ours.step(latents, prepared, 0)}
        if theirs is not None:
            runs["diffusers"] = lambda: theirs(*asked)
        return Station(
            "Stage C step",
            batch * flops.stage_c_flops(asdict(self.sizes.stage_c), self.side, self.side, 1, False),
            runs,
        )

    def _stage_b(self, batch: int) -> Station:
        ours, theirs = self.b
        side, cells = latent_side(self.side), embedding_side(self.side)
        latents, embeddings = self.noise(batch, 4, side, side), self.noise(batch, 16, cells, cells)
        _, pooled = self.texts(batch)
        ratio = torch.full((batch,), 0.5, device=self.device)
        prepared = ours.prepare(pooled, embeddings, ratio[:1], (side, side))
        asked = [t.to(self.dtype) for t in (latents, ratio, pooled[:, None])]
        effnet = embeddings.to(self.dtype)
        runs = {"ours": lambda: ours.step(latents, prepared, 0)}
        if theirs is not None:
            runs["diffusers"] = lambda: theirs(*asked, effnet=effnet)
        total = flops.stage_b_flops(asdict(self.sizes.stage_b), self.side, self.side, 1, False)
        return Station("Stage B step", batch * total, runs)

    def _stage_a(self, batch: int) -> Station:
        ours, theirs = self.a
        side = latent_side(self.side)
        latents = self.noise(batch, 4, side, side)
        scaled = (latents * self.sizes.stage_a.scale_factor).to(self.dtype)
        runs: dict[str, Callable[[], Any]] = {
            "ours": lambda: [ours.decode(latent) for latent in latents.split(1)]
        }
        if theirs is not None:
            runs["diffusers"] = lambda: theirs.decode(scaled)
        total = flops.stage_a_flops(asdict(self.sizes.stage_a), self.side, self.side)
        return Station("Stage A decode", batch * total, runs)

    def texts(self, rows: int) -> tuple[Tensor, Tensor]:
        config = self.sizes.stage_c
        return (
            self.noise(rows, TOKENS, config.clip_text_in_channels or 0),
            self.noise(rows, config.clip_text_pooled_in_channels),
        )


def has_diffusers() -> bool:
    """Whether there is a peer at all."""
    return _their_classes() is not None


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
