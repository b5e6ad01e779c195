"""The formulas of LoRA, DoRA, LoHa and LoKr: what a change adds to a weight, at scale 1.

    LoRA    up @ down; as Tucker's form of a convolution the sum over i, j of core[i, j] * up[i] * down[j]
    LoHa    (w1_a @ w1_b) * (w2_a @ w2_b), each side in Tucker's form if it has a core
    LoKr    the Kronecker product of w1 and w2, each whole or a product of two
    DoRA    any of these, after which the weight's rows (or input channels) get the lengths that were trained

Weights are matrices here, (rows, everything else). Everything is computed in float32.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from cascade_batch.model.layouts.lora_layouts import Change

Tensors = Mapping[str, Tensor]
"""By their role in the change."""


def added(change: Change, tensors: Tensors, base: Tensor, scale: float, weight: float) -> Tensor:
    """What is added to the weights `base` (rows, ...) that a change is for, in its shape.

    Args:
        scale: of the change, alpha / r.
        weight: of the whole LoRA. With a magnitude the result goes straight from `base` (0) to the DoRA's weight (1).
    """
    if change.kind == "value":
        return weight * (tensors["value"] - base)
    delta = _delta(tensors).view(base.shape)
    if change.magnitude_axis is None:
        return weight * scale * delta
    moved = base + scale * delta
    return weight * (_of_length(moved, tensors["magnitude"], change.magnitude_axis) - base)


def _delta(tensors: Tensors) -> Tensor:
    match tensors:
        case {"up": up, "mid": mid, "down": down}:
            return _tucker(mid, up.flatten(1).T, down.flatten(1))
        case {"up": up, "down": down}:
            return up.flatten(1) @ down.flatten(1)
        case {"diff": diff}:
            return diff
        case {"hada_w1_a": _}:
            return _side(tensors, "hada_w1", "hada_t1") * _side(tensors, "hada_w2", "hada_t2")
    return torch.kron(_side(tensors, "lokr_w1", "lokr_t1"), _side(tensors, "lokr_w2", "lokr_t2"))


def _side(tensors: Tensors, name: str, core: str) -> Tensor:
    if name in tensors:
        return tensors[name].flatten(1)
    a, b = tensors[f"{name}_a"], tensors[f"{name}_b"]
    return _tucker(tensors[core], a, b) if core in tensors else a @ b.flatten(1)


def _tucker(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Of (r, s, height, width), (r, rows) and (s, channels): (rows, channels x height x width)."""
    return torch.einsum("ijk,ip,jr->prk", core.flatten(2), a, b).flatten(1)


def _of_length(moved: Tensor, magnitude: Tensor, axis: int) -> Tensor:
    """Each row (axis 0) or input channel (axis 1) of a weight with the length that `magnitude` gives it."""
    others = [dimension for dimension in range(moved.ndim) if dimension != axis]
    lengths = torch.linalg.vector_norm(moved, dim=others, keepdim=True) + torch.finfo(moved.dtype).eps
    return magnitude.reshape(lengths.shape) / lengths * moved
