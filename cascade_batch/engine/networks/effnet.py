"""The EfficientNetV2-S that makes Stage C's kind of embedding out of a picture, and whose build ControlNets share.

Fused and plain inverted bottlenecks with squeeze and excitation, at a 32nd of the picture's size; then a 1x1
convolution to 16 channels and a batch normalization without parameters. Parameter names are those of torchvision's
`efficientnet_v2_s().features` under `backbone.`, as in the published `effnet_encoder.safetensors`. For inference:
stochastic depth is absent, batch normalization uses the stored statistics. Token-major inside, as in `blocks.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade_batch.engine.networks.blocks import PointwiseConv, TokenBatchNorm2d, TokenConv2d
from cascade_batch.model.config import EffnetConfig

NORM_EPS = 1e-3
"""torchvision's for EfficientNetV2."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SQUEEZE = 4
"""Squeeze and excitation narrows to a quarter of the channels that enter its bottleneck."""


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch normalization, and SiLU unless it ends a bottleneck."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        is_active: bool = True,
    ) -> None:
        margin = kernel_size // 2 if padding is None else padding
        super().__init__(
            TokenConv2d(channels_in, channels_out, kernel_size, stride, margin, groups=groups, bias=False),
            TokenBatchNorm2d(channels_out, eps=NORM_EPS),
            nn.SiLU() if is_active else nn.Identity(),
        )


class SqueezeExcitation(nn.Module):
    """Weighs channels by their means over the picture (Hu et al., 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = PointwiseConv(channels, squeezed)
        self.fc2 = PointwiseConv(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(F.silu(self.fc1(x.mean(dim=(1, 2), keepdim=True)))).sigmoid()


class Bottleneck(nn.Module):
    """Widen, look around, narrow (EfficientNetV2, Tan and Le, 2021); residual where the shape stays."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, expansion: int, fused: bool) -> None:
        super().__init__()
        layers = _fused_layers if fused else _layers
        self.block = nn.Sequential(*layers(channels_in, channels_out, stride, channels_in * expansion))
        self.is_residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.is_residual else self.block(x)


def _layers(channels_in: int, channels_out: int, stride: int, wide: int) -> list[nn.Module]:
    return [
        ConvNorm(channels_in, wide),
        ConvNorm(wide, wide, 3, stride=stride, groups=wide),
        SqueezeExcitation(wide, max(1, channels_in // SQUEEZE)),
        ConvNorm(wide, channels_out, is_active=False),
    ]


def _fused_layers(channels_in: int, channels_out: int, stride: int, wide: int) -> list[nn.Module]:
    """Widening and looking around are one convolution; without widening it is the only one."""
    if wide == channels_in:
        return [ConvNorm(channels_in, channels_out, 3, stride=stride)]
    return [
        ConvNorm(channels_in, wide, 3, stride=stride),
        ConvNorm(wide, channels_out, is_active=False),
    ]


def build_backbone(config: EffnetConfig) -> nn.Sequential:
    """The network of torchvision's `features`: (B, H, W, channels) to (B, H/32, W/32, features)."""
    widths = (config.stem_channels, *config.stage_channels)
    stem = ConvNorm(config.in_channels, widths[0], 3, stride=2, padding=config.stem_padding)
    stages = (_stage(config, number, widths[number]) for number in range(len(config.stage_channels)))
    return nn.Sequential(stem, *stages, ConvNorm(widths[-1], config.features))


def _stage(config: EffnetConfig, number: int, channels_in: int) -> nn.Sequential:
    """Only the first block of a stage changes size and channels."""
    channels, expansion = config.stage_channels[number], config.stage_expansions[number]
    fused, stride = config.stage_fused[number], config.stage_strides[number]
    first = Bottleneck(channels_in, channels, stride, expansion, fused)
    rest = (
        Bottleneck(channels, channels, 1, expansion, fused) for _ in range(config.stage_layers[number] - 1)
    )
    return nn.Sequential(first, *rest)


class EffnetEncoder(nn.Module):
    """From pictures to the embeddings that Stage C draws and Stage B sees."""

    def __init__(self, config: EffnetConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config)
        self.mapper = nn.Sequential(
            PointwiseConv(config.features, config.latent_channels, bias=False),
            TokenBatchNorm2d(config.latent_channels, affine=False),
        )

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in 0..1 to embeddings (B, 16, H/32, W/32), both float32; sizes are rounded up."""
        x = pixels.permute(0, 2, 3, 1)
        x = (x - x.new_tensor(IMAGENET_MEAN)) / x.new_tensor(IMAGENET_STD)
        return self.mapper(self.backbone(x.to(self.dtype))).permute(0, 3, 1, 2).float()
