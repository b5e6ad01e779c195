"""The full-size networks have the published names, shapes and parameter counts (on the meta device)."""

import json
from collections.abc import Callable

import pytest
import torch
from torch import nn

from cascade_batch.engine.networks.stage_a import StageA
from cascade_batch.engine.networks.stage_b import StageB
from cascade_batch.engine.networks.stage_c import StageC
from cascade_batch.model import config
from tests.engine.make_keys import KEYS, expand, shapes_of

FULL_SIZE: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "stage_c": (lambda: StageC(config.STAGE_C), 1550, 3_589_103_632),
    "stage_c_lite": (lambda: StageC(config.STAGE_C_LITE), 782, 1_030_785_040),
    "stage_b": (lambda: StageB(config.STAGE_B), 1726, 1_562_941_136),
    "stage_b_lite": (lambda: StageB(config.STAGE_B_LITE), 970, 699_471_248),
    "stage_a": (lambda: StageA(config.STAGE_A), 122, 18_406_894),
}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_names_shapes_and_counts(name: str) -> None:
    build, tensors, parameters = FULL_SIZE[name]
    with torch.device("meta"):
        network = build()
    ours, published = shapes_of(network), expand(json.loads((KEYS / f"{name}.json").read_text()))
    assert sorted(ours.keys() ^ published.keys()) == []
    assert {key: (ours[key], published[key]) for key in ours if ours[key] != published[key]} == {}
    assert len(ours) == tensors
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
