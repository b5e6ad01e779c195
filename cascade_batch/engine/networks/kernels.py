"""Products and norms with what stands around them in one pass, where the device has a kernel for that.

On a CPU in evaluation the linear layers are oneDNN's, which multiply as fast as torch's own or faster and apply GELU or
add the residual while the result is still in a register; what each gains stands in `jobs/BENCHMARKS.md`. They have no
gradient, and multiply bfloat16 only on a CPU with AVX-512, so training, every other CPU and every other device take
torch's plain operators, which say the same in more passes.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_onednn: Any = (
    torch.ops.mkldnn._linear_pointwise
    if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    else None
)
_CACHED = 2**20
"""Values of a map that are summed up at a time."""
_SCORES = 2**26
"""Attention scores of an image that may stand in memory at once; 2048 px of the published Stage C need 1.8e8."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., in) times weight (out, in), plus bias (out,): (..., out)."""
    if _has_onednn(x):
        return _onednn(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU, with the error function, of a linear layer."""
    if _has_onednn(x):
        return _onednn(x, weight, bias, "gelu", [], "none")
    return F.gelu(F.linear(x, weight, bias))


def add_linear(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A residual (..., out) plus a linear layer of x (..., in)."""
    if _has_onednn(x):
        return _onednn.binary(x, residual, weight, bias, "add")
    return residual + F.linear(x, weight, bias)


def attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Scaled dot-product attention of (B, heads, tokens, head channels)."""
    heads, tokens, channels = queries.shape[1:]
    small = heads * tokens * keys.shape[2] <= _SCORES
    if not (small and queries.dtype == torch.bfloat16 and _has_onednn(queries)):
        return F.scaled_dot_product_attention(queries, keys, values)
    # torch's fused CPU kernel multiplies bfloat16 at a third of the rate of a product.
    q, k, v = (each.flatten(0, 1) for each in (queries, keys, values))
    scores = torch.baddbmm(q.new_empty(1), q, k.transpose(1, 2), beta=0, alpha=channels**-0.5)
    return torch.bmm(scores.softmax(-1), v).view_as(queries)


def position_norm(x: Tensor) -> Tensor:
    """Each channel's Euclidean norm over the positions of a map (B, H, W, C), float32 (B, 1, 1, C)."""
    if x.device.type != "cpu":
        return torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=torch.float32)
    # torch's CPU norm over all but the last axis is many times slower than either of these.
    if _is_plain_inference():
        return _norm_by_statistics(x)
    positions = max(1, _CACHED // (x.shape[0] * x.shape[3]))
    squares = [part.float().square().sum(dim=1) for part in x.flatten(1, 2).split(positions, dim=1)]
    return torch.stack(squares).sum(dim=0).sqrt()[:, None, None]


def _norm_by_statistics(x: Tensor) -> Tensor:
    """By way of batch normalization's mean and variance, which pass once over the map and keep float32 sums."""
    # float32, which the statistics then are as well
    unused = torch.zeros(2, x.shape[3], dtype=torch.float32, device=x.device)
    squares = []
    for image in x.split(1):
        mean, variance = torch.batch_norm_update_stats(image.permute(0, 3, 1, 2), unused[0], unused[1], 0.0)
        squares.append(torch.addcmul(variance, mean, mean))
    return torch.stack(squares).mul_(x.shape[1] * x.shape[2]).sqrt_()[:, None, None]


def scale_and_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x · scale + shift, into the memory of x, which must be the caller's own, unless a gradient is asked for."""
    if torch.is_grad_enabled():
        return torch.addcmul(shift, x, scale)
    return torch.addcmul(shift, x, scale, out=x)


def _has_onednn(x: Tensor) -> bool:
    wanted = x.device.type == "cpu" and torch.backends.mkldnn.enabled  # which a user may have switched off
    return wanted and x.dtype in onednn_dtypes() and _is_plain_inference()


@cache
def onednn_dtypes() -> frozenset[torch.dtype]:
    """What this machine's oneDNN multiplies; none where torch was built without it."""
    if _onednn is None:
        return frozenset()
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return frozenset((torch.float32, torch.bfloat16))
    return frozenset((torch.float32,))


def _is_plain_inference() -> bool:
    return (
        not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")  # which casts for torch's own operators alone
        and not torch.compiler.is_compiling()  # torch.compile fuses the plain operators itself
    )
