"""The trunk that Stage C and Stage B share: a U of residual, timestep and attention blocks.

Each level down runs its blocks (`repeat` times, a 1x1 convolution between), and hands its result to the
first residual block of the same level up. Levels run at equal size (Stage C) or halve it (Stage B).

A rendering calls `prepare` of the stage once per batch, then `step` once per denoising step. `Prepared`
holds what does not change over the steps, looked up by block. Latents are float32 NCHW outside, token-major
in the weights' dtype inside.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from cascade_batch.engine.networks.blocks import (
    AttentionBlock,
    Interpolate,
    KeysValues,
    LayerNorm,
    Modulation,
    PixelShuffle,
    PixelUnshuffle,
    PointwiseConv,
    ResBlock,
    TimestepBlock,
    TokenConv2d,
    TokenConvTranspose2d,
    resize,
)
from cascade_batch.errors import WeightsError
from cascade_batch.model.config import ATTENTION, RES, TIME, UNetConfig

NO_CONDITIONS: Mapping[str, float] = {}
MAX_POSITION = 10_000
"""The timestep ratio 0..1 is embedded as a position 0..10,000."""


@dataclass(frozen=True)
class Prepared:
    """All that is constant over the denoising steps of one batch."""

    keys_values: dict[nn.Module, KeysValues]
    modulations: dict[nn.Module, Modulation]
    image_map: Tensor | None = None
    """What Stage B adds to the embedded latents, (batch, h, w, channels)."""
    injections: dict[nn.Module, Tensor] = field(default_factory=dict)
    """What a ControlNet adds to the input of a residual block, (batch, h, w, channels)."""

    def first(self, images: int) -> "Prepared":
        """Of the first images of the batch alone."""
        kept = {block: (keys[:images], values[:images]) for block, (keys, values) in self.keys_values.items()}
        injections = {block: added[:images] for block, added in self.injections.items()}
        image_map = None if self.image_map is None else self.image_map[:images]
        return Prepared(kept, self.modulations, image_map, injections)


class CascadeUNet(nn.Module):
    """The trunk with its input and output layers; the stages add their conditioning."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.block_out_channels
        self.clip_txt_pooled_mapper = nn.Linear(
            config.clip_text_pooled_in_channels, config.conditioning_dim * config.clip_seq
        )
        self.clip_norm = LayerNorm()
        patch = config.patch_size
        self.embedding = nn.Sequential(
            PixelUnshuffle(patch), PointwiseConv(config.in_channels * patch**2, channels[0]), LayerNorm()
        )
        self._add_down_levels(config)
        self._add_up_levels(config)
        self.clf = nn.Sequential(
            LayerNorm(), PointwiseConv(channels[0], config.out_channels * patch**2), PixelShuffle(patch)
        )

    def _add_down_levels(self, config: UNetConfig) -> None:
        self.down_blocks, self.down_downscalers = nn.ModuleList(), nn.ModuleList()
        self.down_repeat_mappers = nn.ModuleList()
        for level, layers in enumerate(config.down_num_layers_per_block):
            self.down_downscalers.append(_downscaler(config, level))
            self.down_blocks.append(_level_blocks(config, level, layers, takes_skip=False))
            repeats = config.down_blocks_repeat_mappers[level]
            self.down_repeat_mappers.append(_repeat_mappers(config, level, repeats))

    def _add_up_levels(self, config: UNetConfig) -> None:
        self.up_blocks, self.up_upscalers = nn.ModuleList(), nn.ModuleList()
        self.up_repeat_mappers = nn.ModuleList()
        deepest = len(config.block_out_channels) - 1
        for position, layers in enumerate(config.up_num_layers_per_block):
            level = deepest - position
            self.up_blocks.append(_level_blocks(config, level, layers, takes_skip=level < deepest))
            self.up_upscalers.append(_upscaler(config, level))
            repeats = config.up_blocks_repeat_mappers[position]
            self.up_repeat_mappers.append(_repeat_mappers(config, level, repeats))

    @property
    def dtype(self) -> torch.dtype:
        return self.clip_txt_pooled_mapper.weight.dtype

    def pooled_tokens(self, pooled: Tensor) -> Tensor:
        """The pooled state (batch, channels) as tokens (batch, clip_seq, conditioning_dim)."""
        return self.clip_txt_pooled_mapper(pooled.to(self.dtype)).unflatten(-1, (self.config.clip_seq, -1))

    def prepare_blocks(
        self,
        conditioning: Tensor,
        ratios: Tensor,
        image_map: Tensor | None = None,
        conditions: Mapping[str, float] = NO_CONDITIONS,
    ) -> Prepared:
        """From conditioning tokens (batch, tokens, conditioning_dim) and time ratios (steps,) float32.

        `conditions` are those that the config's `timestep_conditioning_type` names; one that is not given is 0.
        """
        conditioning = self.clip_norm(conditioning)
        times = self._embed_ratios(ratios)
        extra = {
            name: self._embed_ratios(ratios.new_full((1,), conditions.get(name, 0.0)))
            for name in self.config.timestep_conditioning_type
        }
        keys_values, modulations = {}, {}
        for block in self.modules():
            if isinstance(block, AttentionBlock):
                keys_values[block] = block.keys_values(conditioning)
            elif isinstance(block, TimestepBlock):
                modulations[block] = block.modulation(times, extra)
        return Prepared(keys_values, modulations, image_map)

    def _embed_ratios(self, ratios: Tensor) -> Tensor:
        """Sine and cosine features of the noise level, computed in float32: (steps, dim)."""
        dim = self.config.timestep_ratio_embedding_dim
        frequencies = torch.arange(dim // 2, device=ratios.device, dtype=torch.float32)
        frequencies = (frequencies * (-math.log(MAX_POSITION) / (dim // 2 - 1))).exp()
        angles = ratios.float()[:, None] * MAX_POSITION * frequencies[None, :]
        features = torch.cat([angles.sin(), angles.cos()], dim=1)
        return nn.functional.pad(features, (0, dim % 2)).to(self.dtype)

    def step(self, latents: Tensor, prepared: Prepared, step: int) -> Tensor:
        """The prediction for `latents` (batch, channels, h, w) at step number `step`, float32, same shape."""
        x = self.embedding(latents.permute(0, 2, 3, 1).to(self.dtype))
        if prepared.image_map is not None:
            x = x + prepared.image_map
        x = self._up(self._down(x, prepared, step), prepared, step)
        return self.clf(x).permute(0, 3, 1, 2).float()

    def _down(self, x: Tensor, prepared: Prepared, step: int) -> list[Tensor]:
        levels: list[Tensor] = []
        parts = zip(self.down_blocks, self.down_downscalers, self.down_repeat_mappers, strict=True)
        for blocks, downscaler, mappers in parts:
            x = _run_level(downscaler(x), None, blocks, mappers, prepared, step)
            levels.append(x)
        return levels

    def _up(self, levels: list[Tensor], prepared: Prepared, step: int) -> Tensor:
        x, skips = levels[-1], [None, *reversed(levels[:-1])]
        parts = zip(skips, self.up_blocks, self.up_upscalers, self.up_repeat_mappers, strict=True)
        for skip, blocks, upscaler, mappers in parts:
            if skip is not None:  # a level of odd size comes back one row or column short
                x = resize(x, *skip.shape[1:3])
            x = upscaler(_run_level(x, skip, blocks, mappers, prepared, step))
        return x


def _run_level(
    x: Tensor, skip: Tensor | None, blocks: nn.Module, mappers: nn.Module, prepared: Prepared, step: int
) -> Tensor:
    """A level's blocks, repeated with the same weights; the skip enters the first block of every round."""
    for mapper in (*_children(mappers), None):
        for position, block in enumerate(_children(blocks)):
            if isinstance(block, ResBlock):
                if (added := prepared.injections.get(block)) is not None:
                    x = x + resize(added, *x.shape[1:3])
                x = block(x, skip if position == 0 else None)
            elif isinstance(block, TimestepBlock):
                x = block(x, prepared.modulations[block], step)
            else:
                x = block(x, prepared.keys_values[block])
        x = x if mapper is None else mapper(x)
    return x


def _children(modules: nn.Module) -> Iterator[nn.Module]:
    return iter(cast(Iterable[nn.Module], modules))


def _level_blocks(config: UNetConfig, level: int, layers: int, takes_skip: bool) -> nn.ModuleList:
    kinds = [kind for _ in range(layers) for kind in config.block_types_per_layer[level]]
    skip = config.block_out_channels[level] if takes_skip else 0
    return nn.ModuleList(
        _block(config, kind, level, skip if position == 0 else 0) for position, kind in enumerate(kinds)
    )


def _block(config: UNetConfig, kind: str, level: int, skip_channels: int) -> nn.Module:
    channels = config.block_out_channels[level]
    if kind == RES:
        return ResBlock(channels, skip_channels, config.kernel_size, config.per_level("dropout")[level])
    if kind == TIME:
        return TimestepBlock(channels, config.timestep_ratio_embedding_dim, config.timestep_conditioning_type)
    if kind == ATTENTION:
        heads = config.num_attention_heads[level]
        return AttentionBlock(channels, config.conditioning_dim, heads, config.per_level("self_attn")[level])
    raise WeightsError("unknown block type", got=kind, expected=f"{RES}, {TIME} or {ATTENTION}")


def _repeat_mappers(config: UNetConfig, level: int, repeats: int) -> nn.ModuleList:
    channels = config.block_out_channels[level]
    return nn.ModuleList(PointwiseConv(channels, channels) for _ in range(repeats - 1))


def _downscaler(config: UNetConfig, level: int) -> nn.Module:
    if level == 0:
        return nn.Identity()
    above, here = config.block_out_channels[level - 1 : level + 1]
    if config.switch_level is None:
        return nn.Sequential(LayerNorm(), TokenConv2d(above, here, kernel_size=2, stride=2))
    scale = Interpolate(0.5) if config.switch_level[level - 1] else nn.Identity()
    return nn.Sequential(LayerNorm(), _Blocks(PointwiseConv(above, here), scale))


def _upscaler(config: UNetConfig, level: int) -> nn.Module:
    if level == 0:
        return nn.Identity()
    above, here = config.block_out_channels[level - 1 : level + 1]
    if config.switch_level is None:
        return nn.Sequential(LayerNorm(), TokenConvTranspose2d(here, above, kernel_size=2, stride=2))
    scale = Interpolate(2) if config.switch_level[level - 1] else nn.Identity()
    return nn.Sequential(LayerNorm(), _Blocks(scale, PointwiseConv(here, above)))


class _Blocks(nn.Module):
    """Modules in a row under the name `blocks`, as the published keys have it."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)
