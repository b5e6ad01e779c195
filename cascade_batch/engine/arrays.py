"""Arrays of people and stores to tensors of the device, and back to pixels."""

import numpy as np
import torch
from torch import Tensor


def to_tensor(array: np.ndarray, device: str) -> Tensor:
    # A copy in memory that torch aligns: matrix products may round differently elsewhere.
    return torch.tensor(array, dtype=torch.float32, device=device)


def to_pixels(image: Tensor) -> tuple[np.ndarray, bool, bool]:
    """(1, 3, H, W) float32 in 0..1 to (1, H, W, 3) uint8, rounded to the nearest level."""
    has_nan, has_infinite = bool(image.isnan().any()), bool(image.isinf().any())
    levels = (image.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy(), has_nan, has_infinite
