"""What a ControlNet is shown of a control picture, in the ways that the published ones were trained."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cascade_batch.engine.networks.effnet import EffnetEncoder
from cascade_batch.errors import SpecError
from cascade_batch.model.config import ControlNetConfig, EffnetConfig

CANNY_SIDE = 224
CANNY_THRESHOLDS = 100, 200
"""Edges are found in a picture of this side, between these gradients, and brought back to the picture's size."""


def control_input(
    config: ControlNetConfig, pixels: Tensor, masks: Tensor | None, effnet: EffnetEncoder | None
) -> Tensor:
    """From pictures (B, 3, H, W) in 0..1 and masks (B, 1, H, W), 1 where to paint, to the ControlNet's input.

    Told by its channels: 1 edges, 3 the picture itself, 4 the picture without what is masked, and the mask,
    16 (behind the large trunk) the embedding of the picture at half its size. Raises SpecError for what is missing.
    """
    channels = config.trunk.in_channels
    if isinstance(config.trunk, EffnetConfig) and channels == 1:
        return edges(pixels)
    if isinstance(config.trunk, EffnetConfig) and channels == 3:
        return pixels
    if isinstance(config.trunk, EffnetConfig) and channels == 4:
        return _masked(pixels, masks)
    if channels == 16:
        return _enlarged(pixels, effnet)
    raise _unknown_kind(config)


def check_kind(config: ControlNetConfig) -> None:
    """Raise SpecError for a ControlNet of which nobody here knows what it wants to be shown."""
    channels, is_effnet = config.trunk.in_channels, isinstance(config.trunk, EffnetConfig)
    if channels != 16 and not (is_effnet and channels in (1, 3, 4)):
        raise _unknown_kind(config)


def _unknown_kind(config: ControlNetConfig) -> SpecError:
    return SpecError(
        "a ControlNet of an unknown kind",
        where="control_image",
        got=f"{config.trunk.in_channels} input channels",
        expected="1 (canny), 3, 4 (inpainting) or 16 (super-resolution)",
    )


def edges(pixels: Tensor) -> Tensor:
    """Canny's edges (1986) of pictures (B, 3, H, W) in 0..1: (B, 1, H, W)."""
    small = _scaled(pixels, CANNY_SIDE, CANNY_SIDE)
    levels = (small * 255).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    found = [cv2.Canny(np.ascontiguousarray(picture), *CANNY_THRESHOLDS) for picture in levels]
    lines = torch.tensor(np.stack(found), dtype=torch.float32, device=pixels.device)[:, None] / 255
    return _scaled(lines, *pixels.shape[2:])


def _masked(pixels: Tensor, masks: Tensor | None) -> Tensor:
    if masks is None:
        raise SpecError("a ControlNet for inpainting needs a mask", where="mask", got="none")
    return torch.cat([pixels * (1 - masks) + masks, masks], dim=1)


def _enlarged(pixels: Tensor, effnet: EffnetEncoder | None) -> Tensor:
    if effnet is None:
        raise SpecError(
            "a ControlNet for super-resolution needs the effnet encoder",
            next_step="name one: --effnet-encoder PATH",
        )
    height, width = pixels.shape[2:]
    embedding = effnet.encode(_scaled(pixels, height // 2, width // 2))
    return F.interpolate(embedding, size=(height // 32, width // 32), mode="nearest")


def _scaled(pixels: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(pixels, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
