"""The peer of the parity tests: `diffusers`' own classes, with the same weights as ours.

`pair_*` give a network of theirs with random small weights and ours with the same; `*_pipeline` give their
pipelines around given networks. Weights are wide enough that every branch matters.
"""

import json
import warnings
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.models.unets.unet_stable_cascade import StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from diffusers.pipelines.stable_cascade.pipeline_stable_cascade import StableCascadeDecoderPipeline
from diffusers.pipelines.stable_cascade.pipeline_stable_cascade_prior import StableCascadePriorPipeline
from diffusers.schedulers.scheduling_ddpm_wuerstchen import DDPMWuerstchenScheduler
from diffusers.utils import logging
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from cascade_batch.engine.decoder import Decoder
from cascade_batch.engine.networks.stage_a import StageA
from cascade_batch.engine.networks.stage_b import StageB
from cascade_batch.engine.networks.stage_c import StageC
from cascade_batch.engine.networks.text import TextEncoder
from cascade_batch.engine.prior import Prior
from cascade_batch.model.config import StageAConfig, UNetConfig
from cascade_batch.model.parts import PartFiles
from cascade_batch.weights import EMBEDDED, PARTS, SUBFOLDERS

TINY = EMBEDDED / "tiny"

Theirs = TypeVar("Theirs", bound=nn.Module)
Ours = TypeVar("Ours", bound=nn.Module)


def quiet() -> None:
    """Their pipelines warn about deprecation, and draw progress bars."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="diffusers")


def model_parts(model: Path = TINY) -> dict[str, PartFiles]:
    """A model folder's parts."""
    parts = {}
    for name in PARTS:
        folder = model / SUBFOLDERS[name]
        config = {} if name == "tokenizer" else json.loads((folder / "config.json").read_text())
        parts[name] = PartFiles(config, folder, tuple(sorted(folder.glob("*.safetensors"))))
    return parts


def their_config(config: UNetConfig | StageAConfig) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in fields(config) if f.name != "prediction_type"}


def pair_c(config: UNetConfig, seed: int = 0) -> tuple[Any, StageC]:
    return _paired(StableCascadeUNet(**their_config(config)), StageC(config), seed)


def pair_b(config: UNetConfig, seed: int = 0) -> tuple[Any, StageB]:
    return _paired(StableCascadeUNet(**their_config(config)), StageB(config), seed)


def pair_a(config: StageAConfig, seed: int = 0) -> tuple[Any, StageA]:
    return _paired(PaellaVQModel(**asdict(config)), StageA(config), seed)


def _paired(theirs: Theirs, ours: Ours, seed: int) -> tuple[Theirs, Ours]:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in theirs.named_parameters():
        wide = (
            0.3 if parameter.ndim < 2 or "gamma" in name or "beta" in name else parameter[0].numel() ** -0.5
        )
        nn.init.normal_(parameter, std=wide, generator=generator)
    for name, buffer in theirs.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            nn.init.uniform_(buffer, 0.5, 1.5, generator=generator)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs.eval().requires_grad_(False), ours.eval().requires_grad_(False)


def text_parts(model: Path = TINY) -> tuple[CLIPTokenizer, CLIPTextModelWithProjection]:
    """A model folder's text tower, as transformers loads it."""
    tower = CLIPTextModelWithProjection.from_pretrained(model / "text_encoder")
    return CLIPTokenizer.from_pretrained(model / "tokenizer"), tower


def prior_pipeline(
    net: StableCascadeUNet | None = None, dtype: torch.dtype = torch.float32, model: Path = TINY
) -> Any:
    """Their prior around `net`, by default the one of the model folder."""
    tokenizer, tower = text_parts(model)
    pipeline = StableCascadePriorPipeline(
        tokenizer=tokenizer,
        text_encoder=tower,
        prior=net or StableCascadeUNet.from_pretrained(model / "prior"),
        scheduler=their_scheduler(model),
    )
    return _ready(pipeline, dtype)


def decoder_pipeline(
    net: StableCascadeUNet | None = None,
    vqgan: PaellaVQModel | None = None,
    dtype: torch.dtype = torch.float32,
    model: Path = TINY,
) -> Any:
    """Their decoder around `net` and `vqgan`, by default those of the model folder."""
    tokenizer, tower = text_parts(model)
    pipeline = StableCascadeDecoderPipeline(
        decoder=net or StableCascadeUNet.from_pretrained(model / "decoder"),
        tokenizer=tokenizer,
        text_encoder=tower,
        scheduler=their_scheduler(model),
        vqgan=vqgan or PaellaVQModel.from_pretrained(model / "vqgan"),
    )
    return _ready(pipeline, dtype)


def their_scheduler(model: Path = TINY) -> Any:
    return DDPMWuerstchenScheduler.from_pretrained(model / "scheduler")


def _ready(pipeline: Any, dtype: torch.dtype) -> Any:
    quiet()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(dtype)


def our_prior(net: StageC) -> Prior:
    """Our prior around `net` and the tiny text tower."""
    tokenizer, tower = text_parts()
    return Prior(TextEncoder(tower, tokenizer), net, "cpu")


def our_decoder(net: StageB, stage_a: StageA) -> Decoder:
    return Decoder(net, stage_a, "cpu")


def generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference relative to the largest value."""
    if ours.shape != theirs.shape:
        raise AssertionError(f"shapes differ: ours {tuple(ours.shape)}, theirs {tuple(theirs.shape)}")
    return float((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max())
