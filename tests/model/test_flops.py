"""Counted costs equal what torch counts on the meta device within 1 %, and the published totals."""

from dataclasses import asdict

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cascade_batch.engine.networks.stage_a import StageA
from cascade_batch.engine.networks.stage_b import StageB
from cascade_batch.engine.networks.stage_c import StageC
from cascade_batch.engine.networks.text import build_text_tower
from cascade_batch.model import config, flops
from cascade_batch.model.geometry import embedding_side, latent_side

BIG_G = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "projection_dim": 1280, "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "gelu",
}  # fmt: skip
SQUARE, OBLONG = (1024, 1024), (768, 1280)


@pytest.fixture(autouse=True)
def on_meta():
    with torch.device("meta"), torch.inference_mode():
        yield


@pytest.mark.parametrize(
    ("settings", "size"),
    [(config.STAGE_C_LITE, SQUARE), (config.TINY_STAGE_C, OBLONG)],
    ids=["lite", "tiny"],
)
def test_stage_c(settings: config.UNetConfig, size: tuple[int, int]) -> None:
    net, (height, width) = StageC(settings), (embedding_side(side) for side in size)
    text, pooled = (
        torch.empty(1, 77, settings.clip_text_in_channels or 0),
        torch.empty(1, settings.clip_text_pooled_in_channels),
    )
    with FlopCounterMode(display=False) as counter:
        prepared = net.prepare(text, pooled, torch.empty(2))
        net.step(torch.empty(1, 16, height, width), prepared, 0)
        net.step(torch.empty(1, 16, height, width), prepared, 1)
    counted = flops.stage_c_flops(asdict(settings), *size, steps=2, guided=False)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize(
    ("settings", "size"),
    [(config.STAGE_B_LITE, SQUARE), (config.TINY_STAGE_B, OBLONG)],
    ids=["lite", "tiny"],
)
def test_stage_b(settings: config.UNetConfig, size: tuple[int, int]) -> None:
    net, (height, width) = StageB(settings), (latent_side(side) for side in size)
    pooled = torch.empty(1, settings.clip_text_pooled_in_channels)
    with FlopCounterMode(display=False) as counter:
        prepared = net.prepare(pooled, torch.empty(1, 16, 24, 24), torch.empty(1), (height, width))
        net.step(torch.empty(1, 4, height, width), prepared, 0)
    counted = flops.stage_b_flops(asdict(settings), *size, steps=1, guided=False)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("settings", [config.STAGE_A, config.TINY_STAGE_A], ids=["full", "tiny"])
def test_stage_a(settings: config.StageAConfig) -> None:
    with FlopCounterMode(display=False) as counter:
        StageA(settings).decode(torch.empty(1, 4, 192, 320))
    counted = flops.stage_a_flops(asdict(settings), 768, 1280)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_text() -> None:
    tower = build_text_tower(BIG_G)
    with FlopCounterMode(display=False) as counter:
        tower(torch.empty(3, 77, dtype=torch.long))
    assert flops.text_flops(BIG_G, 3) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_published_totals() -> None:
    """One forward pass of each network for 1024 x 1024, and one whole picture, in TFLOP."""
    full_c, lite_c, full_b, lite_b = map(
        asdict, (config.STAGE_C, config.STAGE_C_LITE, config.STAGE_B, config.STAGE_B_LITE)
    )
    forward = [
        flops.stage_c_flops(full_c, *SQUARE, steps=1, guided=False),
        flops.stage_c_flops(lite_c, *SQUARE, steps=1, guided=False),
        flops.stage_b_flops(full_b, *SQUARE, steps=1, guided=False),
        flops.stage_b_flops(lite_b, *SQUARE, steps=1, guided=False),
        flops.stage_a_flops(asdict(config.STAGE_A), *SQUARE),
        flops.text_flops(BIG_G, 1),
    ]
    assert [flops / 1e12 for flops in forward] == pytest.approx(
        [4.0783, 1.1743, 6.1741, 2.2236, 2.1724, 0.0979], rel=0.002
    )
    picture = flops.stage_c_flops(full_c, *SQUARE, steps=20, guided=True)
    picture += flops.stage_b_flops(full_b, *SQUARE, steps=10, guided=False)
    picture += flops.stage_a_flops(asdict(config.STAGE_A), *SQUARE)
    assert picture / 1e12 == pytest.approx(221.65, rel=0.001)
