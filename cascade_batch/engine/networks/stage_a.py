"""Stage A: the autoencoder between pixels and latents of 4 x H/4 x W/4.

Rendering only decodes. The codebook is loaded because it is part of the checkpoint, but the published
pipelines never quantize. Latents and pixels are NCHW outside, token-major inside.
"""

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade_batch.engine.networks.blocks import (
    LayerNorm,
    PixelShuffle,
    PixelUnshuffle,
    PointwiseConv,
    TokenBatchNorm2d,
    TokenConv2d,
    TokenConvTranspose2d,
    linear_layers,
)
from cascade_batch.engine.networks.kernels import add_linear, linear_gelu
from cascade_batch.model.config import StageAConfig


class ReplicationPad(nn.Module):
    """One row or column more on every side, repeating the border."""

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")
        return padded.permute(0, 2, 3, 1)


class MixingBlock(nn.Module):
    """A depthwise and a channelwise residual branch, gated by six learned scalars.

    A branch of x · (1 + scale) + shift, times gate, is computed as a branch of x with scale, shift and gate moved into
    its weights, which are small beside the maps: exact, because repeated borders are no zeros, and five passes less.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = LayerNorm()
        self.depthwise = nn.Sequential(
            ReplicationPad(), TokenConv2d(channels, channels, kernel_size=3, groups=channels)
        )
        self.channelwise = nn.Sequential(
            nn.Linear(channels, channels * 4), nn.GELU(), nn.Linear(channels * 4, channels)
        )
        self.gammas = nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self._spatial(self.norm(x)).add_(x)
        return self._pointwise(x, self.norm(x))

    def _spatial(self, x: Tensor) -> Tensor:
        scale, shift, gate = self.gammas[:3]
        pad, conv = self.depthwise[0], cast(nn.Conv2d, self.depthwise[1])
        bias = cast(Tensor, conv.bias) + shift * conv.weight.sum(dim=(1, 2, 3))
        padded = pad(x).permute(0, 3, 1, 2)
        mixed = F.conv2d(padded, conv.weight * ((1 + scale) * gate), bias * gate, groups=conv.groups)
        return mixed.permute(0, 2, 3, 1)

    def _pointwise(self, residual: Tensor, x: Tensor) -> Tensor:
        scale, shift, gate = self.gammas[3:]
        widen, narrow = linear_layers(self.channelwise)
        bias = widen.bias + shift * widen.weight.sum(dim=1)
        hidden = linear_gelu(x, widen.weight * (1 + scale), bias)
        return add_linear(residual, hidden, narrow.weight * gate, narrow.bias * gate)


class Codebook(nn.Module):
    """The vectors of the quantizer; unused when rendering."""

    def __init__(self, entries: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(entries, channels)


class StageA(nn.Module):
    """Encoder, codebook and decoder. Parameter names are those of the published checkpoint."""

    def __init__(self, config: StageAConfig) -> None:
        super().__init__()
        self.config = config
        patch = config.up_down_scale_factor
        widths = [config.embed_dim // 2**level for level in reversed(range(config.levels))]
        self.in_block = nn.Sequential(
            PixelUnshuffle(patch), PointwiseConv(config.in_channels * patch**2, widths[0])
        )
        self.down_blocks = nn.Sequential(*_down_blocks(widths, config.latent_channels))
        self.vquantizer = Codebook(config.num_vq_embeddings, config.latent_channels)
        self.up_blocks = nn.Sequential(
            *_up_blocks(widths[::-1], config.latent_channels, config.bottleneck_blocks)
        )
        self.out_block = nn.Sequential(
            PointwiseConv(widths[0], config.out_channels * patch**2), PixelShuffle(patch)
        )

    @property
    def dtype(self) -> torch.dtype:
        return self.vquantizer.embedding.weight.dtype

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in 0..1 to unscaled latents (B, 4, H/4, W/4), float32."""
        x = pixels.permute(0, 2, 3, 1).to(self.dtype)
        return self.down_blocks(self.in_block(x)).permute(0, 3, 1, 2).float()

    def decode(self, latents: Tensor, scale: float | None = None, tile: int | None = None) -> Tensor:
        """Stage B's latents (B, 4, h, w) to pixels (B, 3, 4h, 4w), float32, nominally 0..1, not clamped.

        `scale` multiplies the latents, None the config's `scale_factor`. `tile` is the side in pixels of the tiles that
        are decoded one after the other, for pictures that do not fit in memory whole; every tile sees as much around
        it as a pixel depends on, so that only rounding differs.
        """
        latents = latents * (self.config.scale_factor if scale is None else scale)
        cells = max(latents.shape[2:]) if tile is None else max(1, tile // self.patch)
        rows = [
            torch.cat(
                [self._tile(latents, top, left, cells) for left in range(0, latents.shape[3], cells)], 3
            )
            for top in range(0, latents.shape[2], cells)
        ]
        return rows[0] if len(rows) == 1 else torch.cat(rows, 2)

    @property
    def patch(self) -> int:
        """Pixels of a latent cell's side."""
        return self.config.up_down_scale_factor * 2 ** (self.config.levels - 1)

    def _tile(self, latents: Tensor, top: int, left: int, cells: int) -> Tensor:
        # Each block mixes in its direct neighbours, and no more than two blocks of each level are wider than a cell.
        halo = self.config.bottleneck_blocks + 2 * self.config.levels
        above, before = max(0, top - halo), max(0, left - halo)
        seen = latents[:, :, above : top + cells + halo, before : left + cells + halo]
        x = self.out_block(self.up_blocks(seen.permute(0, 2, 3, 1).to(self.dtype)))
        down, right = (top - above) * self.patch, (left - before) * self.patch
        side = cells * self.patch
        return x[:, down : down + side, right : right + side].permute(0, 3, 1, 2).float()


def _down_blocks(widths: list[int], latent_channels: int) -> list[nn.Module]:
    blocks: list[nn.Module] = [MixingBlock(widths[0])]
    for above, here in pairwise(widths):
        blocks += [TokenConv2d(above, here, kernel_size=4, stride=2, padding=1), MixingBlock(here)]
    to_latents = PointwiseConv(widths[-1], latent_channels, bias=False)
    return [*blocks, nn.Sequential(to_latents, TokenBatchNorm2d(latent_channels))]


def _up_blocks(widths: list[int], latent_channels: int, bottleneck_blocks: int) -> list[nn.Module]:
    blocks: list[nn.Module] = [nn.Sequential(PointwiseConv(latent_channels, widths[0]))]
    blocks += [MixingBlock(widths[0]) for _ in range(bottleneck_blocks)]
    for below, here in pairwise(widths):
        blocks += [
            TokenConvTranspose2d(below, here, kernel_size=4, stride=2, padding=1),
            MixingBlock(here),
        ]
    return blocks
