"""A device under every name that people give it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cascade_batch.api import Cascade
from cascade_batch.engine.devices import named_device
from cascade_batch.engine.networks import kernels
from cascade_batch.errors import SpecError

CPUS = ["cpu", "CPU", " cpu ", "cpu:0", torch.device("cpu"), torch.device("cpu", 0), torch.device("cpu:0")]


@pytest.mark.parametrize("device", CPUS)
def test_a_cpu_is_a_cpu_however_it_is_named(device: Any) -> None:
    assert named_device(device) == "cpu"
    assert Cascade.load("tiny", device=device)._stages._dtype("auto") == "float32"


def test_every_name_of_the_cpu_draws_the_same_picture() -> None:
    pictures = [
        Cascade.load("tiny", device=device).render(
            "a red circle", height=256, width=256, prior_num_inference_steps=2, num_inference_steps=2, seed=3
        )
        for device in ("cpu", torch.device("cpu:0"))
    ]
    assert pictures[0].images[0].tobytes() == pictures[1].images[0].tobytes()


def test_auto_is_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert named_device("auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert named_device("auto") == named_device(" AUTO ") == "cuda"


@pytest.mark.parametrize(
    "device", ["gpu", "meta", "cuda:99", torch.device("cuda", 99), 99, "", None, 1.5, "cpu:x"]
)
def test_what_is_no_device_here_is_refused_by_name(device: Any) -> None:
    with pytest.raises(SpecError, match="no such device here") as failure:
        Cascade.load("tiny", device=device)
    assert repr(device) in str(failure.value)


def test_a_card_keeps_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    empty: Callable[..., torch.Tensor] = torch.empty
    monkeypatch.setattr(torch, "empty", lambda size, device: empty(size))  # as if there were cards
    assert [named_device(d) for d in ("cuda", "CUDA:1", torch.device("cuda", 1))] == [
        "cuda",
        "cuda:1",
        "cuda:1",
    ]


def test_bfloat16_renders_where_onednn_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "onednn_dtypes", lambda: frozenset({torch.float32}))
    sizes = {"height": 256, "width": 256, "prior_num_inference_steps": 2, "num_inference_steps": 2}
    plain = Cascade.load("tiny", device="cpu", dtype="bfloat16").render("a red circle", **sizes, seed=3)
    exact = Cascade.load("tiny", device="cpu").render("a red circle", **sizes, seed=3)
    near, far = (torch.tensor(list(one.images[0].tobytes())).float() for one in (plain, exact))
    assert 0 < (near - far).abs().mean() < 10
