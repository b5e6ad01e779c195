"""Each network's forward pass equals diffusers' within 1e-5 of the largest value, from random small weights."""

from dataclasses import replace

import pytest
import torch

from cascade_batch.model.config import TINY_STAGE_A, TINY_STAGE_B, TINY_STAGE_C, UNetConfig
from tests.engine.oracle import pair_a, pair_b, pair_c, relative_error

TOLERANCE = 1e-5
RATIO = torch.tensor([0.35])


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(6, 6), (6, 9), (5, 7)])
@pytest.mark.parametrize(
    "config",
    [
        TINY_STAGE_C,
        replace(TINY_STAGE_C, switch_level=(True,)),
        replace(TINY_STAGE_C, self_attn=(True, False), kernel_size=5),
        replace(TINY_STAGE_C, timestep_ratio_embedding_dim=17, down_blocks_repeat_mappers=(2, 1)),
    ],
    ids=["published", "switched", "cross-attention", "odd"],
)
def test_stage_c(config: UNetConfig, size: tuple[int, int]) -> None:
    theirs, ours = pair_c(config)
    latents, text, pooled = noise(2, 16, *size), noise(2, 77, 32), noise(2, 32)
    expected = theirs(latents, RATIO.expand(2), pooled[:, None], text, torch.zeros(2, 1, 16)).sample
    got = ours.step(latents, ours.prepare(text, pooled, RATIO), 0)
    assert relative_error(got, expected) < TOLERANCE


def test_stage_c_sees_images() -> None:
    theirs, ours = pair_c(TINY_STAGE_C)
    latents, text, pooled, images = noise(2, 16, 6, 6), noise(2, 77, 32), noise(2, 32), noise(2, 3, 16)
    expected = theirs(latents, RATIO.expand(2), pooled[:, None], text, images).sample
    got = ours.step(latents, ours.prepare(text, pooled, RATIO, images), 0)
    assert relative_error(got, expected) < TOLERANCE


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (70, 82), (38, 50)])
def test_stage_b(size: tuple[int, int]) -> None:
    theirs, ours = pair_b(TINY_STAGE_B)
    latents, pooled, embeddings = noise(2, 4, *size), noise(2, 32), noise(2, 16, 6, 7)
    expected = theirs(latents, RATIO.expand(2), pooled[:, None], effnet=embeddings).sample
    got = ours.step(latents, ours.prepare(pooled, embeddings, RATIO, size), 0)
    assert relative_error(got, expected) < TOLERANCE


def test_every_step_of_a_schedule_uses_its_own_modulation() -> None:
    theirs, ours = pair_b(TINY_STAGE_B)
    ratios = torch.tensor([1.0, 0.6, 0.05])
    latents, pooled, embeddings = noise(2, 4, 32, 32), noise(2, 32), noise(2, 16, 6, 6)
    prepared = ours.prepare(pooled, embeddings, ratios, (32, 32))
    for step, ratio in enumerate(ratios):
        expected = theirs(latents, ratio.expand(2), pooled[:, None], effnet=embeddings).sample
        assert relative_error(ours.step(latents, prepared, step), expected) < TOLERANCE


@pytest.mark.parametrize("size", [(16, 16), (16, 24), (13, 21)])
def test_stage_a_decodes(size: tuple[int, int]) -> None:
    theirs, ours = pair_a(TINY_STAGE_A)
    latents = noise(2, 4, *size)
    expected = theirs.decode(latents * TINY_STAGE_A.scale_factor).sample
    assert relative_error(ours.decode(latents), expected) < TOLERANCE


def test_stage_a_encodes() -> None:
    theirs, ours = pair_a(TINY_STAGE_A)
    pixels = noise(2, 3, 64, 96).sigmoid()
    assert relative_error(ours.encode(pixels), theirs.encode(pixels).latents) < TOLERANCE


def test_bfloat16_is_near_float32() -> None:
    _, ours = pair_b(TINY_STAGE_B)
    latents, pooled, embeddings = noise(2, 4, 32, 32), noise(2, 32), noise(2, 16, 6, 6)

    def run() -> torch.Tensor:
        return ours.step(latents, ours.prepare(pooled, embeddings, RATIO, (32, 32)), 0)

    exact = run()
    ours.to(torch.bfloat16)
    error = float((run() - exact).norm() / exact.norm())
    assert 1e-5 < error < 0.03  # 2^-8 a rounding; equal results would mean that nothing ran in bfloat16
