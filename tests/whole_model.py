"""A small model with every part that a prompt table can ask for, in the published layouts.

Stage C has as many residual blocks as the full one, so that a ControlNet's indexes have their places. Its random
weights predict little velocity, which keeps embeddings of the size that the decoder of `tiny` expects.
"""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from cascade_batch.engine.loading.stored import shapes_of
from cascade_batch.engine.networks.controlnet import ControlNet
from cascade_batch.engine.networks.effnet import EffnetEncoder
from cascade_batch.engine.networks.stage_c import StageC
from cascade_batch.model.config import TINY_EFFNET, TINY_STAGE_C, ControlNetConfig, EffnetConfig
from cascade_batch.weights import EMBEDDED
from tests.engine.torchvision_effnet import seeded

TINY = EMBEDDED / "tiny"
STAGE_C = replace(
    TINY_STAGE_C,
    down_num_layers_per_block=(8, 24),
    up_num_layers_per_block=(24, 8),
    prediction_type="v_prediction",
)
VISION = {
    "architectures": ["CLIPVisionModelWithProjection"],
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "image_size": 56,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
    "projection_dim": TINY_STAGE_C.clip_image_in_channels,
}


def write_model(folder: Path, channels: int = 1) -> Path:
    """The model's folder. `channels` are those of its ControlNet: 1 canny, 4 inpainting."""
    for part in ("decoder", "vqgan", "text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(TINY / part, folder / part)
    (folder / "prior").mkdir()
    (folder / "prior" / "config.json").write_text(json.dumps(asdict(STAGE_C)))
    _save(StageC(STAGE_C), folder / "prior" / "diffusion_pytorch_model.safetensors", 0.02)
    write_image_encoder(folder / "image_encoder")
    for name, network in (
        ("effnet_encoder", EffnetEncoder(TINY_EFFNET)),
        ("controlnet", control_net(channels)),
    ):
        save_file(seeded(shapes_of(network)), folder / f"{name}.safetensors")
    return folder


def write_image_encoder(folder: Path) -> Path:
    """A CLIP vision tower whose states fit the tiny Stage C."""
    folder.mkdir(parents=True)
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION))
    (folder / "config.json").write_text(json.dumps(VISION))
    _save(tower, folder / "model.safetensors", 0.1)
    return folder


def control_net(channels: int) -> ControlNet:
    trunk: EffnetConfig = replace(TINY_EFFNET, in_channels=channels, stem_padding=0)
    return ControlNet(ControlNetConfig(trunk, STAGE_C.block_out_channels[0]))


def _save(network: nn.Module, path: Path, spread: float) -> None:
    generator = torch.Generator().manual_seed(7)
    for parameter in network.parameters():
        width = spread if parameter.ndim < 2 else spread * 3 * parameter[0].numel() ** -0.5
        nn.init.normal_(parameter, std=width, generator=generator)
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, path, metadata={"format": "pt"})
