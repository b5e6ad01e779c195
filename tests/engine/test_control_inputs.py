"""What ControlNets are shown: OpenCV's edges, pictures without what is masked, embeddings of half the size."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cascade_batch.engine.control_inputs import CANNY_SIDE, control_input
from cascade_batch.engine.loading.stored import shapes_of
from cascade_batch.engine.networks.effnet import EffnetEncoder
from cascade_batch.errors import SpecError
from cascade_batch.model.config import TINY_EFFNET, ControlNetConfig, LargeTrunkConfig
from tests.engine.torchvision_effnet import seeded

SUPER_RESOLUTION = ControlNetConfig(LargeTrunkConfig(16, 24, 12, layers=1, features=8))


def config(channels: int) -> ControlNetConfig:
    return ControlNetConfig(replace(TINY_EFFNET, in_channels=channels, stem_padding=0))


def pictures(side: int) -> Tensor:
    """(2, 3, side, side): a bright disc on dark, and noise."""
    y, x = np.mgrid[:side, :side]
    disc = ((y - side / 2) ** 2 + (x - side / 2) ** 2 < (side / 4) ** 2).astype(np.float32)
    noise = np.random.default_rng(0).random((side, side), dtype=np.float32)
    return torch.from_numpy(np.stack([disc, noise]))[:, None].repeat(1, 3, 1, 1)


def test_edges_are_those_of_opencv() -> None:
    seen = pictures(CANNY_SIDE)  # its own side, so that nothing is scaled
    got = control_input(config(1), seen, None, None)
    assert got.shape == (2, 1, CANNY_SIDE, CANNY_SIDE)
    for one, picture in zip(got, seen, strict=True):
        levels = (picture.permute(1, 2, 0) * 255).to(torch.uint8).numpy()
        assert torch.equal(one[0], torch.from_numpy(cv2.Canny(levels, 100, 200)).float() / 255)
    assert 0 < float(got[0].mean()) < 0.1  # the disc's rim


def test_edges_come_back_at_the_pictures_size() -> None:
    assert control_input(config(1), pictures(96), None, None).shape == (2, 1, 96, 96)


def test_inpainting_hides_what_is_masked() -> None:
    seen, masks = pictures(64), torch.zeros(2, 1, 64, 64)
    masks[..., :32] = 1
    got = control_input(config(4), seen, masks, None)
    assert torch.equal(got[:, 3:], masks)
    assert torch.equal(got[:, :3, :, :32], torch.ones(2, 3, 64, 32))
    assert torch.equal(got[:, :3, :, 32:], seen[..., 32:])


def test_super_resolution_sees_an_embedding_of_half_the_size() -> None:
    encoder = EffnetEncoder(TINY_EFFNET).eval()
    encoder.load_state_dict(seeded(shapes_of(encoder)))
    seen = pictures(128)
    with torch.inference_mode():
        got = control_input(SUPER_RESOLUTION, seen, None, encoder)
        half = encoder.encode(F.interpolate(seen, size=(64, 64), mode="bilinear", antialias=True))
    assert got.shape == (2, 16, 4, 4)
    assert torch.allclose(got, half.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize(("channels", "named"), [(4, "needs a mask"), (2, "unknown kind")])
def test_what_is_missing_is_named(channels: int, named: str) -> None:
    with pytest.raises(SpecError, match=named):
        control_input(config(channels), pictures(64), None, None)
    with pytest.raises(SpecError, match="effnet encoder"):
        control_input(SUPER_RESOLUTION, pictures(64), None, None)
