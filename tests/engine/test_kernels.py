"""Fused products and norms beside torch's plain operators, which training and other devices take."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cascade_batch.engine.networks import kernels
from cascade_batch.engine.networks.blocks import ResBlock
from cascade_batch.engine.networks.stage_a import MixingBlock

DTYPES = [(torch.float32, 1e-6), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)]


@pytest.fixture(params=["as here", "AVX2", "switched off"])
def onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A CPU as this one is; one whose oneDNN refuses bfloat16; one without oneDNN."""
    if request.param == "AVX2":
        monkeypatch.setattr(kernels, "onednn_dtypes", lambda: frozenset({torch.float32}))
        monkeypatch.setattr(kernels, "_onednn", Refusing(kernels._onednn))
    if request.param == "switched off":
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
        monkeypatch.setattr(kernels, "_onednn", None)
    return request.param


class Refusing:
    """oneDNN's linear layers as they are where there is no AVX-512."""

    def __init__(self, onednn: Any) -> None:
        self._onednn = onednn

    def __call__(self, x: Tensor, *rest: Any) -> Tensor:
        assert x.dtype == torch.float32, "could not create a primitive descriptor"
        return self._onednn(x, *rest)

    def binary(self, x: Tensor, *rest: Any) -> Tensor:
        assert x.dtype == torch.float32, "could not create a primitive descriptor"
        return self._onednn.binary(x, *rest)


def random(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.usefixtures("onednn")
@torch.inference_mode()
def test_fused_products_are_products(dtype: torch.dtype, tolerance: float) -> None:
    x, weight, bias = (random(*shape, dtype=dtype) for shape in ((2, 5, 7, 24), (40, 24), (40,)))
    residual = random(2, 5, 7, 40, dtype=dtype)
    plain = F.linear(x.double(), weight.double(), bias.double())
    assert error(kernels.linear(x, weight, bias), plain) < tolerance
    assert error(kernels.linear_gelu(x, weight, bias), F.gelu(plain)) < tolerance
    assert error(kernels.add_linear(residual, x, weight, bias), residual.double() + plain) < tolerance
    without = F.linear(x.double(), weight.double())
    assert error(kernels.linear(x, weight, None), without) < tolerance


def test_what_onednn_multiplies_is_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = kernels.onednn_dtypes.__wrapped__
    assert (torch.bfloat16 in ask()) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert ask() == {torch.float32}
    monkeypatch.setattr(kernels, "_onednn", None)
    assert ask() == frozenset()


@torch.inference_mode()
def test_autocast_chooses_the_dtype() -> None:
    x, weight, bias = (random(*shape, dtype=torch.float32) for shape in ((3, 24), (40, 24), (40,)))
    with torch.autocast("cpu", torch.bfloat16):
        low = kernels.linear_gelu(x.bfloat16(), weight, bias)
    assert low.dtype == torch.bfloat16
    assert error(low, kernels.linear_gelu(x, weight, bias)) < 2e-2


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("scores", [2**26, 0])
@pytest.mark.usefixtures("onednn")
@torch.inference_mode()
def test_attention_is_the_same_both_ways(
    dtype: torch.dtype, tolerance: float, scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_SCORES", scores)
    tokens = random(2, 30, 3 * 16, dtype=dtype).unflatten(-1, (3, 16)).transpose(1, 2)
    queries, keys, values = tokens, random(2, 3, 41, 16, dtype=dtype), random(2, 3, 41, 16, dtype=dtype)
    weights = (queries.double() @ keys.double().transpose(2, 3) / 4).softmax(-1)
    assert error(kernels.attention(queries, keys, values), weights @ values.double()) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("cached", [2**20, 64])
@pytest.mark.parametrize(("learns", "size"), [(False, (9, 11)), (True, (9, 11)), (False, (1, 1))])
def test_norms_are_summed_in_float32(
    dtype: torch.dtype,
    tolerance: float,
    cached: int,
    learns: bool,
    size: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "_CACHED", cached)
    x = 300 * random(2, *size, 24, dtype=dtype) + 1000  # squares that float16 does not hold
    with torch.set_grad_enabled(learns):
        norm = kernels.position_norm(x)
    assert (norm.shape, norm.dtype) == ((2, 1, 1, 24), torch.float32)
    assert error(norm, x.double().square().sum((1, 2), keepdim=True).sqrt()) < min(tolerance, 1e-5)


def blocks() -> list[Callable[[Tensor], Tensor]]:
    torch.manual_seed(3)
    made = [ResBlock(24, 0, 3, 0.0), MixingBlock(24)]
    for parameter in (p for block in made for p in block.parameters()):
        torch.nn.init.normal_(parameter, std=0.3)
    return made


@pytest.mark.parametrize("index", [0, 1])
def test_a_block_that_learns_says_what_one_that_renders_says(index: int) -> None:
    block, x = blocks()[index], random(2, 6, 5, 24, dtype=torch.float32)
    learned = block(x.requires_grad_())
    learned.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    seen = x.detach().clone()
    with torch.inference_mode():
        assert error(block(seen), learned.detach()) < 1e-5
    assert torch.equal(seen, x.detach()), "a block must not write into its input"
