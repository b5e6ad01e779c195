"""What `mini` is made of, and how its networks start out."""

# Layers are reached through their published names, which torch types as "Tensor or Module".
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn
from transformers import CLIPTextModelWithProjection

from cascade_batch.engine.networks.blocks import GlobalResponseNorm, TimestepBlock, TokenConv2d
from cascade_batch.engine.networks.stage_a import MixingBlock, StageA
from cascade_batch.engine.networks.stage_b import StageB
from cascade_batch.engine.networks.stage_c import StageC
from cascade_batch.engine.networks.text import build_text_tower
from cascade_batch.engine.networks.unet import CascadeUNet
from cascade_batch.model.config import ATTENTION, RES, STAGE_A, STAGE_B, STAGE_C, TIME
from jobs.model_folder import text_config
from jobs.train_mini.tokenizer import LENGTH

TEXT_WIDTH = 128

Stage = TypeVar("Stage", bound=CascadeUNet)

MINI_STAGE_C = replace(
    STAGE_C,
    conditioning_dim=128,
    block_out_channels=(64, 192),
    num_attention_heads=(0, 4),
    down_num_layers_per_block=(0, 2),
    up_num_layers_per_block=(2, 1),
    block_types_per_layer=((RES, TIME), (RES, TIME, ATTENTION)),
    clip_text_in_channels=TEXT_WIDTH,
    clip_text_pooled_in_channels=TEXT_WIDTH,
    clip_image_in_channels=16,
    kernel_size=7,
    dropout=(0.0, 0.0),
    self_attn=False,
    switch_level=None,
    prediction_type="v_prediction",
)
"""Wide kernels at 12 x 12: zeros beyond the border are its only sense of place."""
MINI_STAGE_B = replace(
    STAGE_B,
    conditioning_dim=64,
    block_out_channels=(32, 64, 96),
    num_attention_heads=(0, 0, 0),
    down_num_layers_per_block=(1, 1, 2),
    up_num_layers_per_block=(2, 1, 1),
    down_blocks_repeat_mappers=(1, 1, 1),
    up_blocks_repeat_mappers=(1, 1, 1),
    block_types_per_layer=((RES, TIME),) * 3,
    clip_text_pooled_in_channels=TEXT_WIDTH,
    dropout=(0.0, 0.0, 0.0),
    prediction_type="v_prediction",
)
MINI_STAGE_A = replace(STAGE_A, bottleneck_blocks=2, embed_dim=48, num_vq_embeddings=1024, scale_factor=1.0)


def tower_config(vocabulary: int) -> dict:
    return text_config(vocabulary, TEXT_WIDTH, layers=3, heads=4, length=LENGTH)


def new_text_tower(vocabulary: int) -> CLIPTextModelWithProjection:
    tower = build_text_tower(tower_config(vocabulary))
    for name, parameter in tower.named_parameters():
        if parameter.ndim == 2:
            wide = 0.5 if "token_embedding" in name else 0.1 if "position" in name else None
            nn.init.normal_(parameter, std=wide or parameter.shape[1] ** -0.5)
    return tower


def new_stage_c() -> StageC:
    return _started(StageC(MINI_STAGE_C))


def new_stage_b() -> StageB:
    return _started(StageB(MINI_STAGE_B))


def new_stage_a() -> StageA:
    """Gates start open: zeros, as published networks start, would hold the branches back for long."""
    net = StageA(MINI_STAGE_A)
    for block in net.modules():
        if isinstance(block, MixingBlock):
            block.gammas.data.copy_(torch.tensor([0.0, 0.0, 0.3, 0.0, 0.0, 0.3]))
    return net


@torch.no_grad()
def _started(net: Stage) -> Stage:
    """Constants in many channels, which padding turns into coordinates; branches that are small at first."""
    for block in net.modules():
        if isinstance(block, GlobalResponseNorm):
            block.gamma.fill_(1.0)
        elif isinstance(block, TimestepBlock):
            for mapper in block.children():
                mapper.weight.mul_(0.1)
                mapper.bias.zero_()
            block.mapper.bias.chunk(2)[1].normal_(std=0.5)
        elif isinstance(block, TokenConv2d) and block.groups == 1:
            block.bias.normal_(std=0.5)
    # A large constant beside the embedded latents keeps LayerNorm from hiding their magnitude.
    net.embedding[1].bias.normal_()
    net.clf[1].weight.mul_(0.1)
    net.clf[1].bias.zero_()
    return net
