"""What an image costs, in plain integers from the parts' `config.json`: floating point operations.

A multiply-add counts as 2, as torch's FlopCounterMode counts; only matrix products, convolutions and attention
count. What the engine prepares once per batch is counted once, not once per step (3.4 % less than
counting whole forward passes for the published Stage C). No torch here: plans are made without it.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from cascade_batch.model.geometry import embedding_side, latent_side
from cascade_batch.model.layouts import ATTENTION, RES

Config = Mapping[str, Any]

TEXT_TOKENS = 77


def stage_c_flops(config: Config, height: int, width: int, steps: int, guided: bool) -> int:
    """Stage C for one image of `height` x `width` pixels; guidance doubles every forward pass."""
    rows, columns = embedding_side(height), embedding_side(width)
    dim, tokens = config["conditioning_dim"], TEXT_TOKENS + 2 * config["clip_seq"]
    conditioning = (
        _linear(TEXT_TOKENS, config["clip_text_in_channels"], dim)
        + _linear(config["clip_seq"], config["clip_text_pooled_in_channels"], dim)
        + _linear(config["clip_seq"], config["clip_image_in_channels"], dim)
    )
    return _unet(config, rows, columns, tokens, conditioning, steps, guided)


def stage_b_flops(config: Config, height: int, width: int, steps: int, guided: bool) -> int:
    """Stage B for one image of `height` x `width` pixels."""
    patch = config["patch_size"]
    rows, columns = latent_side(height) // patch, latent_side(width) // patch
    channels = config["block_out_channels"][0]
    conditioning = _linear(
        config["clip_seq"], config["clip_text_pooled_in_channels"], config["conditioning_dim"]
    )
    for positions, source in ((rows * columns, "effnet"), (1, "pixel_mapper")):
        mapped = config[f"{source}_in_channels"]
        conditioning += _linear(positions, mapped, channels * 4) + _linear(positions, channels * 4, channels)
    return _unet(config, rows, columns, config["clip_seq"], conditioning, steps, guided)


def stage_a_flops(config: Config, height: int, width: int) -> int:
    """Stage A's decoding of one image of `height` x `width` pixels."""
    positions = latent_side(height) * latent_side(width)
    widths = [config["embed_dim"] // 2**level for level in range(config["levels"])]
    total = _linear(positions, config["latent_channels"], widths[0])
    total += config["bottleneck_blocks"] * _mixing_block(positions, widths[0])
    for below, here in itertools.pairwise(widths):
        total += _conv(positions, below, here, kernel=4)
        positions *= 4
        total += _mixing_block(positions, here)
    patch = config["up_down_scale_factor"]
    return total + _linear(positions, widths[-1], config["out_channels"] * patch**2)


def text_flops(config: Config, prompts: int) -> int:
    """The text tower for `prompts` texts; an image has two, its prompt and its negative prompt."""
    width, tokens = config["hidden_size"], config.get("max_position_embeddings", TEXT_TOKENS)
    layer = 4 * _linear(tokens, width, width) + 2 * _linear(tokens, width, config["intermediate_size"])
    layer += _attention(tokens, tokens, width)
    projection = _linear(1, width, config["projection_dim"])
    return prompts * (config["num_hidden_layers"] * layer + projection)


def _unet(
    config: Config, rows: int, columns: int, tokens: int, conditioning: int, steps: int, guided: bool
) -> int:
    once, every_step = conditioning, 0
    patch, first = config["patch_size"] ** 2, config["block_out_channels"][0]
    for channels in (config["in_channels"], config["out_channels"]):  # the first and the last layer
        every_step += _linear(rows * columns, channels * patch, first)
    for level, positions, layers, repeats, skip in _levels(config, rows, columns):
        channels = config["block_out_channels"][level]
        every_step += (repeats - 1) * _linear(positions, channels, channels)
        every_step += repeats * _linear(positions, skip, channels * 4)
        for kind in config["block_types_per_layer"][level]:
            every_step += repeats * layers * _block(config, kind, level, positions, tokens)
            once += layers * _prepared(config, kind, level, tokens)
    every_step += _scalers(config, rows, columns)
    return (once + steps * every_step) * (2 if guided else 1)


def _levels(config: Config, rows: int, columns: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(level, positions, layers, repeats, skip channels) of every level down, then of every level up."""
    deepest = len(config["block_out_channels"]) - 1
    down = zip(config["down_num_layers_per_block"], config["down_blocks_repeat_mappers"], strict=True)
    for level, (layers, repeats) in enumerate(down):
        yield level, _positions(config, rows, columns, level), layers, repeats, 0
    up = zip(config["up_num_layers_per_block"], config["up_blocks_repeat_mappers"], strict=True)
    for level, (layers, repeats) in zip(range(deepest, -1, -1), up, strict=True):
        skip = config["block_out_channels"][level] if level < deepest else 0
        yield level, _positions(config, rows, columns, level), layers, repeats, skip


def _positions(config: Config, rows: int, columns: int, level: int) -> int:
    for above in range(level):
        if _halves(config, above):
            rows, columns = rows // 2, columns // 2
    return rows * columns


def _halves(config: Config, above: int) -> bool:
    switch = config.get("switch_level")
    return switch is None or switch[above]


def _block(config: Config, kind: str, level: int, positions: int, tokens: int) -> int:
    channels = config["block_out_channels"][level]
    if kind == RES:
        depthwise = 2 * positions * channels * config["kernel_size"] ** 2
        return depthwise + 2 * _linear(positions, channels, channels * 4)
    if kind == ATTENTION:
        own = config.get("self_attn", True)
        own = own if isinstance(own, bool) else own[level]
        projections = (4 if own else 2) * _linear(positions, channels, channels)
        return projections + _attention(positions, tokens + (positions if own else 0), channels)
    return 0


def _prepared(config: Config, kind: str, level: int, tokens: int) -> int:
    """The conditioning's keys and values; modulations depend on the schedule only and vanish beside them."""
    if kind != ATTENTION:
        return 0
    channels = config["block_out_channels"][level]
    return _linear(tokens, config["conditioning_dim"], channels) + 2 * _linear(tokens, channels, channels)


def _scalers(config: Config, rows: int, columns: int) -> int:
    total = 0
    channels = config["block_out_channels"]
    for above, (wide, deep) in enumerate(itertools.pairwise(channels)):
        if config.get("switch_level") is None:
            total += 2 * _conv(_positions(config, rows, columns, above + 1), wide, deep, kernel=2)
        else:  # the 1x1 convolution runs before the halving and after the doubling
            total += 2 * _linear(_positions(config, rows, columns, above), wide, deep)
    return total


def _mixing_block(positions: int, channels: int) -> int:
    return 2 * positions * channels * 9 + 2 * _linear(positions, channels, channels * 4)


def _linear(positions: int, channels_in: int, channels_out: int) -> int:
    return 2 * positions * channels_in * channels_out


def _conv(positions: int, channels_in: int, channels_out: int, kernel: int) -> int:
    return kernel**2 * _linear(positions, channels_in, channels_out)


def _attention(queries: int, keys: int, channels: int) -> int:
    return 4 * queries * keys * channels
