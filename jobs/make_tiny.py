"""Write the embedded tiny model: `python -m jobs.make_tiny cascade_batch/embedded/tiny`.

A Stable Cascade in the published folder layout, about 2 MB, that renders a picture in a tenth of a second on
one core. It knows no pictures: each prompt gets colours of its own and each seed a pattern, which is enough
to see that a run works. Weights start random from a fixed seed; Stage C and B are then fitted for a minute
each to the noise of Gaussian latents with mean m(condition) and spread s, whose best guess is known,

    E[ε | x] = √(1 - ᾱ) (x - √ᾱ m) / (ᾱ s² + 1 - ᾱ)

so that latents stay of order one. Stage A stays random, but smooth.
"""

# Layers are reached through their published names, which torch types as "Tensor or Module".
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection

from cascade_batch.engine.batches import DecoderBatch, PriorBatch
from cascade_batch.engine.decoder import Decoder
from cascade_batch.engine.networks.blocks import (
    AttentionBlock,
    GlobalResponseNorm,
    PointwiseConv,
    ResBlock,
    TimestepBlock,
    resize,
)
from cascade_batch.engine.networks.stage_a import MixingBlock, StageA
from cascade_batch.engine.networks.stage_b import StageB
from cascade_batch.engine.networks.stage_c import StageC
from cascade_batch.engine.networks.text import TextEncoder, build_text_tower
from cascade_batch.engine.networks.unet import CascadeUNet, Prepared
from cascade_batch.engine.prior import Prior
from cascade_batch.engine.schedule import signal_share
from cascade_batch.model.config import TINY_STAGE_A, TINY_STAGE_B, TINY_STAGE_C
from jobs.model_folder import clip_tokenizer, text_config, write_model

Batch = tuple[Tensor, Tensor, Prepared]

SEED = 20240213
LENGTH = 77
WORDS = (
    "a an the of in on at with and by from to over under near two three red green blue yellow orange purple black "
    "white golden photo photograph painting drawing picture image portrait illustration watercolor sketch style "
    "cat dog bird horse house tree mountain river lake sea sky sun moon star city street car boat train flower "
    "forest garden robot dragon castle woman man child small large big old new bright dark night day morning "
    "sunset light shadow wearing standing sitting flying running holding looking front behind close view detailed"
)
LATENT_SPREAD = {"c": 1.0, "b": 0.4}
"""Standard deviation s of the latents around their mean."""


def make(folder: Path) -> None:
    """Write all parts below `folder`."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    tokenizer = clip_tokenizer(WORDS.split(), LENGTH)
    tower, tower_config = make_text_tower(len(tokenizer))
    with torch.no_grad():
        text = TextEncoder(tower, tokenizer)
        texts = text.encode(some_prompts())
    stage_c, stage_b, stage_a = StageC(TINY_STAGE_C), StageB(TINY_STAGE_B), StageA(TINY_STAGE_A)
    with torch.no_grad():
        fill_unet(stage_c)
        fill_unet(stage_b)
        fill_stage_a(stage_a)
    fit_stage_c(stage_c, texts.states, texts.pooled)
    fit_stage_b(stage_b, texts.pooled)
    with torch.no_grad():
        fit_colours(stage_a, text, stage_c, stage_b)
    write_model(folder, tokenizer, tower, tower_config, (stage_c, stage_b, stage_a))


def make_text_tower(vocabulary: int) -> tuple[CLIPTextModelWithProjection, dict]:
    config = text_config(vocabulary, width=32, layers=2, heads=2, length=LENGTH, widening=2)
    tower = build_text_tower(config).eval().requires_grad_(False)
    for name, parameter in tower.named_parameters():
        if parameter.ndim == 2:
            wide = 1.0 if "token_embedding" in name else 0.3 if "position_embedding" in name else None
            nn.init.normal_(parameter, std=wide or 1.2 * parameter.shape[1] ** -0.5)
    return tower, config


def some_prompts(count: int = 48) -> list[str]:
    words = WORDS.split()
    picks = torch.randint(len(words), (count, 7))
    return [" ".join(words[i] for i in row[: 2 + number % 6]) for number, row in enumerate(picks.tolist())]


def fill_unet(net: CascadeUNet) -> None:
    """Random weights whose residual branches stay small beside the trunk."""
    for parameter in net.parameters():
        fan_in = parameter[0].numel()
        nn.init.normal_(parameter, std=fan_in**-0.5 if parameter.ndim > 1 else 0.1)
    for block in net.modules():
        if isinstance(block, ResBlock):
            block.channelwise[4].weight.mul_(0.05)
        elif isinstance(block, GlobalResponseNorm):
            nn.init.normal_(block.gamma, std=0.2)
            nn.init.normal_(block.beta, std=0.2)
        elif isinstance(block, TimestepBlock):
            for mapper in block.children():
                mapper.weight.mul_(0.2)
        elif isinstance(block, AttentionBlock):
            block.attention.to_out[0].weight.mul_(0.5 if isinstance(net, StageC) else 0.1)
        elif isinstance(block, PointwiseConv) and block is not net.clf[1]:
            nn.init.orthogonal_(block.weight)
    for block in net.modules():
        if isinstance(block, ResBlock):
            pass_skip(block)
    for upscaler in net.up_upscalers:
        for parameter in upscaler.parameters():
            parameter.mul_(0.3)
    # A large constant beside the embedded latents keeps LayerNorm from hiding their magnitude.
    net.embedding[1].weight.mul_(1.7)
    net.embedding[1].bias.normal_()


def pass_skip(block: ResBlock) -> None:
    """Let a skip through unchanged: gelu(h) - gelu(-h) = h."""
    first, last, norm = block.channelwise[0], block.channelwise[4], block.channelwise[2]
    channels = last.out_features
    if first.in_features == channels:
        return
    same = torch.eye(channels)
    first.weight[: 2 * channels] = torch.cat(
        [torch.zeros(2 * channels, channels), torch.cat([same, -same])], 1
    )
    first.bias[: 2 * channels] = 0
    last.weight[:, : 2 * channels] = torch.cat([same, -same], 1)
    norm.gamma[..., : 2 * channels] = 0
    norm.beta[..., : 2 * channels] = 0


def fit_stage_c(net: StageC, states: Tensor, pooled: Tensor) -> None:
    """Each prompt has a colour of its own, a linear map of its pooled state, and images vary around it."""
    colour = torch.randn(pooled.shape[1], net.config.in_channels)
    means = standardized(pooled @ colour)

    def batch(ratio: Tensor) -> Batch:
        rows = torch.randint(len(pooled), (16,))
        mean = means[rows][:, :, None, None].expand(-1, -1, 6, 6)
        prepared = net.prepare(states[rows], pooled[rows], ratio)
        return mean, noisy(mean, ratio, LATENT_SPREAD["c"]), prepared

    train(net, batch, LATENT_SPREAD["c"], 1600)


def fit_stage_b(net: StageB, pooled: Tensor) -> None:
    """Latents follow a linear map of the embedding, resized."""
    colour = torch.randn(16, net.config.in_channels) / 16**0.5

    def batch(ratio: Tensor) -> Batch:
        rows = torch.randint(len(pooled), (8,))
        field = torch.randn(8, 16, 1, 1) + torch.randn(8, 16, 4, 4)
        mean = (resize(field.permute(0, 2, 3, 1), 32, 32) @ colour).permute(0, 3, 1, 2)
        strength = 1 + 9 * torch.rand(8, 1, 1, 1)  # guidance makes embeddings of any strength
        prepared = net.prepare(pooled[rows], strength * field, ratio, (32, 32))
        return mean, noisy(mean, ratio, LATENT_SPREAD["b"]), prepared

    train(net, batch, LATENT_SPREAD["b"], 1200)


def noisy(mean: Tensor, ratio: Tensor, spread: float) -> Tensor:
    signal = signal_share(ratio)
    clean = mean + spread * torch.randn(mean.shape)
    return signal.sqrt() * clean + (1 - signal).sqrt() * torch.randn(mean.shape)


def standardized(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / x.std(0)


def train(net: CascadeUNet, batch: Callable[[Tensor], Batch], spread: float, steps: int) -> None:
    """Fit the best guess of the noise over all times, most of all near pure noise where errors grow."""
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for _ in range(steps):
        ratio = 1 - 0.95 * torch.rand(1) ** 3
        mean, latents, prepared = batch(ratio)
        signal = signal_share(ratio)
        best = (1 - signal).sqrt() * (latents - signal.sqrt() * mean) / (signal * spread**2 + 1 - signal)
        loss = (net.step(latents, prepared, 0) - best).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()


def fill_stage_a(net: StageA) -> None:
    """A smooth decoder: upsampling kernels are bilinear, and the four pixels of a patch nearly agree."""
    for parameter in net.parameters():
        fan_in = parameter[0].numel() if parameter.ndim else 1
        nn.init.normal_(parameter, std=fan_in**-0.5 if parameter.ndim > 1 else 0.1)
    for module in net.modules():
        if isinstance(module, MixingBlock):
            nn.init.normal_(module.gammas, std=0.15)
        elif isinstance(module, nn.ConvTranspose2d):
            line = torch.tensor([0.25, 0.75, 0.75, 0.25])
            mix = torch.randn(module.in_channels, module.out_channels) / module.in_channels**0.5
            module.weight.copy_(mix[:, :, None, None] * torch.outer(line, line))
    output = net.out_block[0]
    shared = torch.randn(3, 1, output.in_channels) + 0.03 * torch.randn(3, 4, output.in_channels)
    output.weight.copy_(shared.reshape(12, -1, 1, 1))
    output.bias.zero_()


def fit_colours(stage_a: StageA, text: TextEncoder, stage_c: StageC, stage_b: StageB) -> None:
    """Centre the colours of a few pictures of the finished model at grey, spread by a fifth of the range."""
    count, seeds = 8, list(range(8))
    asked = PriorBatch(some_prompts(count), [""] * count, seeds, 256, 256, 20, [4.0] * count)
    seen = Prior(text, stage_c, "cpu").render(asked)
    latents = Decoder(stage_b, stage_a, "cpu").latents(
        DecoderBatch(seen.embeddings, seen.pooled, seen.negative_pooled, seeds, 256, 256, 10, [0.0] * count)
    )
    colours = stage_a.decode(latents).transpose(0, 1).flatten(1)
    spread = (colours.quantile(0.9, dim=1) - colours.quantile(0.1, dim=1)).repeat_interleave(4) / 2.56
    middle = colours.median(dim=1).values.repeat_interleave(4)
    output = stage_a.out_block[0]
    output.weight.mul_(0.2 / spread[:, None, None, None])
    output.bias.copy_(0.5 - 0.2 * middle / spread)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
