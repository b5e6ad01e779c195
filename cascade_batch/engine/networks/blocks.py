"""The building blocks of Stage C and B, token-major: every activation is (batch, height, width, channels).

Channels last keeps LayerNorm, the linear layers and attention free of permutes; convolutions see the same
memory through a permuted view, which torch calls channels_last. Attribute names are part of the published
checkpoints' key names, so placeholders without parameters (GELU, dropout) stay where those count them.

What a block needs besides its input is prepared once per batch: `AttentionBlock.keys_values` and
`TimestepBlock.modulation`. The layout follows ConvNeXt V2 (depthwise convolution, LayerNorm, inverted
bottleneck with global response normalization).
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade_batch.engine.networks.kernels import (
    add_linear,
    attention,
    linear,
    linear_gelu,
    position_norm,
    scale_and_shift,
)
from cascade_batch.errors import WeightsError

EPS = 1e-6

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of the conditioning tokens, each (batch, heads, tokens, head channels)."""
Modulation = tuple[Tensor, Tensor]
"""Scale and shift for every step of a schedule, each (steps, channels)."""


class TokenConv2d(nn.Conv2d):
    """A convolution of token-major maps."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class TokenConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution of token-major maps."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return super().forward(input.permute(0, 3, 1, 2), output_size).permute(0, 2, 3, 1)


class TokenBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization of token-major maps."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution, computed as the linear layer it is; the weight keeps its shape (out, in, 1, 1)."""

    def __init__(self, channels_in: int, channels_out: int, bias: bool = True) -> None:
        super().__init__(channels_in, channels_out, kernel_size=1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight[:, :, 0, 0], self.bias)


class LayerNorm(nn.Module):
    """Normalizes the channels of each position; no parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=EPS)


class PixelUnshuffle(nn.Module):
    """(B, H, W, C) to (B, H/p, W/p, C·p·p), channels ordered (channel, row, column) as torch does."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        if self.patch == 1:
            return x
        batch, height, width, channels = x.shape
        p = self.patch
        x = x.reshape(batch, height // p, p, width // p, p, channels)
        return x.permute(0, 1, 3, 5, 2, 4).reshape(batch, height // p, width // p, channels * p * p)


class PixelShuffle(nn.Module):
    """The inverse of PixelUnshuffle."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        if self.patch == 1:
            return x
        batch, height, width, channels = x.shape
        p = self.patch
        x = x.reshape(batch, height, width, channels // (p * p), p, p)
        return x.permute(0, 1, 4, 2, 5, 3).reshape(batch, height * p, width * p, channels // (p * p))


class Interpolate(nn.Module):
    """Bilinear resize by a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        height, width = (int(side * self.factor) for side in x.shape[1:3])
        return resize(x, height, width)


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize of a token-major map, corners aligned, in float32, to (B, height, width, C)."""
    if x.shape[1:3] == (height, width):
        return x
    resized = F.interpolate(
        x.permute(0, 3, 1, 2).float(), (height, width), mode="bilinear", align_corners=True
    )
    return resized.permute(0, 2, 3, 1).to(x.dtype)


class GlobalResponseNorm(nn.Module):
    """x + gamma·x·N + beta, N each channel's norm over the image relative to the channels' mean norm.

    The norms are accumulated in float32 whatever the dtype, and the three terms folded into one pass, which
    overwrites x unless a gradient is asked for.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        norm = position_norm(x)
        relative = norm / (norm.mean(dim=-1, keepdim=True) + EPS)
        scale = (1 + self.gamma.float() * relative).to(x.dtype)
        return scale_and_shift(x, scale, self.beta)


def linear_layers(layers: nn.Sequential) -> list[nn.Linear]:
    """The linear ones of layers in a row, whose products take in what stands around them (`kernels`)."""
    return [layer for layer in layers if isinstance(layer, nn.Linear)]


class ResBlock(nn.Module):
    """Depthwise convolution, LayerNorm, optional skip, inverted bottleneck; residual."""

    def __init__(self, channels: int, skip_channels: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.depthwise = TokenConv2d(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels
        )
        self.norm = LayerNorm()
        self.channelwise = nn.Sequential(
            nn.Linear(channels + skip_channels, channels * 4),
            nn.GELU(),
            GlobalResponseNorm(channels * 4),
            nn.Dropout(dropout),
            nn.Linear(channels * 4, channels),
        )

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        hidden = self.norm(self.depthwise(x))
        if skip is not None:
            hidden = torch.cat([hidden, skip], dim=-1)
        _, _, response_norm, dropout, _ = self.channelwise
        widen, narrow = linear_layers(self.channelwise)
        hidden = dropout(response_norm(linear_gelu(hidden, widen.weight, widen.bias)))
        return add_linear(x, hidden, narrow.weight, narrow.bias)


class TimestepBlock(nn.Module):
    """Scales and shifts channels by the noise level and the extra conditions (`sca`, `crp`)."""

    def __init__(self, channels: int, embedding_dim: int, conditions: tuple[str, ...]) -> None:
        super().__init__()
        self.mapper = nn.Linear(embedding_dim, channels * 2)
        self.conditions = conditions
        for name in conditions:
            self.add_module(f"mapper_{name}", nn.Linear(embedding_dim, channels * 2))

    def modulation(self, times: Tensor, conditions: Mapping[str, Tensor]) -> Modulation:
        """Of every step: `times` (steps, dim) embeds the ratios, `conditions` (1, dim) each of the extra ones."""
        mapped = self.mapper(times)
        for name in self.conditions:
            mapped = mapped + self.get_submodule(f"mapper_{name}")(conditions[name])
        scale, shift = mapped.chunk(2, dim=-1)
        return 1 + scale, shift

    def forward(self, x: Tensor, modulation: Modulation, step: int) -> Tensor:
        scale, shift = modulation
        return torch.addcmul(shift[step], x, scale[step])


class Attention(nn.Module):
    """The projections of multi-head attention, under the published names."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise WeightsError(
                "attention heads do not divide its channels", got=heads, expected=f"{channels} / n"
            )
        self.heads = heads
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def split(self, x: Tensor) -> Tensor:
        """(batch, tokens, channels) to (batch, heads, tokens, head channels)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, tokens: Tensor) -> KeysValues:
        return self._heads_of(self.to_k, tokens), self._heads_of(self.to_v, tokens)

    def attend(self, residual: Tensor, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The residual (batch, tokens, channels) plus what its tokens see."""
        mixed = attention(self._heads_of(self.to_q, tokens), keys, values)
        (out,) = linear_layers(self.to_out)
        return add_linear(residual, mixed.transpose(1, 2).flatten(-2), out.weight, out.bias)

    def _heads_of(self, projection: nn.Linear, tokens: Tensor) -> Tensor:
        return self.split(linear(tokens, projection.weight, projection.bias))


class AttentionBlock(nn.Module):
    """Positions attend to one another and to the conditioning tokens; residual."""

    def __init__(self, channels: int, conditioning_dim: int, heads: int, self_attention: bool) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.norm = LayerNorm()
        self.attention = Attention(channels, heads)
        self.kv_mapper = nn.Sequential(nn.SiLU(), nn.Linear(conditioning_dim, channels))

    def keys_values(self, conditioning: Tensor) -> KeysValues:
        """Keys and values of the conditioning tokens (batch, tokens, conditioning_dim)."""
        return self.attention.keys_values(self.kv_mapper(conditioning))

    def forward(self, x: Tensor, conditioning: KeysValues) -> Tensor:
        tokens = self.norm(x).flatten(1, 2)
        keys, values = conditioning
        if self.self_attention:
            own_keys, own_values = self.attention.keys_values(tokens)
            keys = torch.cat([own_keys, keys], dim=2)
            values = torch.cat([own_values, values], dim=2)
        return self.attention.attend(x.flatten(1, 2), tokens, keys, values).view_as(x)
