"""ControlNets of the original release: from a control picture to what Stage C's residual blocks get added.

A trunk looks at the control once per batch, and each block has its own projection of the trunk's features, two 1x1
convolutions without bias. Which of three trunks it is, is told by the stored shapes (`layouts/image_configs.py`):

    effnet   pictures 32 times the features' size: canny has 1 channel, inpainting 4 (the picture and its mask)
    large    super-resolution: embeddings of the effnet encoder, 16 channels at the features' size
    simple   maps at the features' size, such as the 512 channels of the withdrawn face ControlNet

Structure and key names: `modules/controlnet.py` of Stability-AI/StableCascade. Token-major inside.
"""

from typing import assert_never

import torch
from torch import Tensor, nn

from cascade_batch.engine.networks.blocks import PointwiseConv, TokenConv2d
from cascade_batch.engine.networks.effnet import build_backbone
from cascade_batch.model.config import (
    ControlNetConfig,
    EffnetConfig,
    LargeTrunkConfig,
    SimpleTrunkConfig,
    TrunkConfig,
)

SLOPE = 0.2
"""Of the leaky rectifiers below zero."""


class ControlNet(nn.Module):
    """One control for Stage C. Parameter names are those of the published checkpoints."""

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = _trunk(config.trunk)
        self.projections = nn.ModuleList(
            _projection(config.trunk.features, config.out_channels) for _ in config.blocks
        )

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def forward(self, control: Tensor) -> dict[int, Tensor]:
        """From a control (B, channels, H, W), as it is: values 0..1 are not normalized, nor are embeddings.

        Index of a residual block of Stage C, in the order in which they run -> (B, h, w, channels) in the weights'
        dtype; h and w are a 32nd of H and W behind the effnet trunk, else H and W.
        """
        features = self.backbone(control.permute(0, 2, 3, 1).to(self.dtype))
        projected = zip(self.config.blocks, self.projections, strict=True)
        return {block: projection(features) for block, projection in projected}


class NormActConv(nn.Module):
    """Twice LayerNorm, GELU, 3x3 convolution; residual. These norms have parameters, and torch's epsilon."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        twice = (
            (nn.LayerNorm(channels), nn.GELU(), TokenConv2d(channels, channels, kernel_size=3, padding=1))
            for _ in range(2)
        )
        self.blocks = nn.Sequential(*(layer for layers in twice for layer in layers))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.blocks(x)


def _trunk(config: TrunkConfig) -> nn.Sequential:
    match config:
        case EffnetConfig():
            return build_backbone(config)
        case LargeTrunkConfig():
            return _large_trunk(config)
        case SimpleTrunkConfig(channels):
            return nn.Sequential(
                TokenConv2d(channels, channels * 4, kernel_size=3, padding=1),
                nn.LeakyReLU(SLOPE),
                TokenConv2d(channels * 4, channels, kernel_size=3, padding=1),
            )
        case _:
            assert_never(config)


def _large_trunk(config: LargeTrunkConfig) -> nn.Sequential:
    return nn.Sequential(
        PointwiseConv(config.in_channels, config.wide_channels),
        nn.LeakyReLU(SLOPE),
        PointwiseConv(config.wide_channels, config.inner_channels),
        *(NormActConv(config.inner_channels) for _ in range(config.layers)),
        PointwiseConv(config.inner_channels, config.features),
    )


def _projection(features: int, channels: int) -> nn.Sequential:
    last = PointwiseConv(features, channels, bias=False)
    nn.init.zeros_(last.weight)  # an untrained ControlNet changes nothing
    return nn.Sequential(PointwiseConv(features, features, bias=False), nn.LeakyReLU(SLOPE), last)
