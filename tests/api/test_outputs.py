"""What a call gives back is read as the published pipelines' outputs are, and is the caller's own.

Theirs, called beside, are the oracle; what surrounds a call changes nothing of it, and is left as it was.
"""

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cascade_batch.api import Cascade, PriorOutput
from tests.api.test_parity import PROMPTS, picture, randn
from tests.engine.oracle import decoder_pipeline, generators, prior_pipeline
from tests.whole_model import write_model

SMALL = {"height": 256, "width": 256}
STEPS = {"num_inference_steps": 2}
NEGATIVE = {
    "negative_prompt_embeds": randn(1, 77, 32),
    "negative_prompt_embeds_pooled": randn(1, 32),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def ours() -> Cascade:
    return Cascade.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def priors(ours: Cascade) -> tuple[Any, Any]:
    given = {"prompt": PROMPTS, **SMALL, **STEPS}
    return ours.prior(**given, generator=generators([1, 2])), prior_pipeline()(
        **given, generator=generators([1, 2])
    )


@pytest.fixture(scope="module")
def pictures(ours: Cascade) -> tuple[Any, Any]:
    given = {"image_embeddings": randn(2, 16, 6, 6), "prompt": PROMPTS, **STEPS}
    return ours.decode(**given, generator=generators([1, 2])), decoder_pipeline()(
        **given, generator=generators([1, 2])
    )


@pytest.mark.parametrize("outputs", ["priors", "pictures"])
def test_outputs_are_read_as_theirs(outputs: str, request: pytest.FixtureRequest) -> None:
    got, theirs = request.getfixturevalue(outputs)
    assert list(got) == list(theirs)
    assert list(got.keys()) == list(theirs.keys())
    assert len(got) == len(theirs) == len(got.to_tuple()) == len(theirs.to_tuple())
    assert [*dict(got)] == [*dict(theirs)]
    for number, name in enumerate(theirs):
        assert name in got
        for found in (got[number], got[name], got.get(name), got.to_tuple()[number], dict(**got)[name]):
            assert found is getattr(got, name)
        assert type(got[name]) is type(theirs[name])
        assert len(got[name]) == len(theirs[name])
    assert got[-1] is got[len(got) - 1]
    assert len(got[:1]) == len(theirs[:1]) == 1
    assert got.get("nothing", 3) == theirs.get("nothing", 3) == 3
    for one in (got, theirs):
        with pytest.raises(KeyError):
            one["nothing"]
        with pytest.raises(IndexError):
            one[9]


def test_what_is_not_there_has_no_entry(ours: Cascade) -> None:
    states = {"prompt_embeds": randn(1, 77, 32), "prompt_embeds_pooled": randn(1, 1, 32)}
    given = {**states, "guidance_scale": 1.0, **SMALL, **STEPS}
    got, theirs = ours.prior(**given), prior_pipeline()(**given)
    assert isinstance(got, PriorOutput)
    assert got.negative_prompt_embeds is None
    assert theirs.negative_prompt_embeds is None
    for one in (got, theirs):
        assert "negative_prompt_embeds" not in one
        assert one.get("negative_prompt_embeds") is None
    assert len(ours.prior(**given, return_dict=False)) == 5
    assert len(prior_pipeline()(**given, return_dict=False)) == 5


@pytest.mark.parametrize("outputs", ["priors", "pictures"])
def test_outputs_change_as_theirs(outputs: str, request: pytest.FixtureRequest) -> None:
    for one in (copy.copy(each) for each in request.getfixturevalue(outputs)):
        name = next(iter(one))
        setattr(one, name, 1)
        assert (one[0], one[name], getattr(one, name)) == (1, 1, 1)
        one[name] = 2
        assert (one[0], one[name], getattr(one, name)) == (2, 2, 2)


def test_outputs_can_be_copied_and_pickled(priors: tuple[Any, Any]) -> None:
    for same in (copy.deepcopy(priors[0]), pickle.loads(pickle.dumps(priors[0]))):
        assert all(torch.equal(same[name], priors[0][name]) for name in priors[0])


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_pictures_of_each_type_are_as_theirs(ours: Cascade, output_type: str) -> None:
    given = {"image_embeddings": randn(2, 16, 6, 6), "prompt": PROMPTS, "output_type": output_type, **STEPS}
    got, theirs = ours.decode(**given)[0], decoder_pipeline()(**given)[0]
    assert type(got) is type(theirs)
    if output_type == "pil":
        assert [(one.size, one.mode) for one in got] == [(one.size, one.mode) for one in theirs]
    else:
        assert (got.shape, got.dtype) == (theirs.shape, theirs.dtype)


def test_a_tuple_holds_the_pictures_as_their_docstring_says(ours: Cascade) -> None:
    """Theirs gives the bare list, unlike every other published pipeline."""
    given = {"image_embeddings": randn(2, 16, 6, 6), "prompt": PROMPTS, "return_dict": False, **STEPS}
    (images,) = ours.decode(**given)
    assert [type(one) for one in images] == [Image.Image] * 2
    assert [type(one) for one in decoder_pipeline()(**given)] == [Image.Image] * 2


def test_tensors_are_the_callers_own(ours: Cascade) -> None:
    """They change in place and take gradients, theirs do; and no later call sees what was done to them."""
    given = {"prompt": PROMPTS, "seed": 1, **SMALL, **STEPS}
    seen: list[torch.Tensor] = []

    def note(_model: Any, _step: int, _time: float, tensors: dict[str, torch.Tensor]) -> None:
        seen.append(tensors["latents"])

    first = ours.prior(**given, callback_on_step_end=note)
    assert isinstance(first, PriorOutput)
    kept = {name: first[name].clone() for name in first}
    latents = ours.decode(kept["image_embeddings"], PROMPTS, seed=1, output_type="latent", **STEPS)[0]
    pixels = ours.decode(kept["image_embeddings"], PROMPTS, seed=1, output_type="pt", **STEPS)[0]
    for tensor in (*first.to_tuple(), latents, pixels, *seen):
        assert not tensor.is_inference()
        assert not tensor.requires_grad
        weight = torch.ones_like(tensor, requires_grad=True)
        (weight * tensor).sum().backward()
        assert weight.grad is not None
        assert torch.equal(weight.grad, tensor)
        tensor.mul_(0)
    again = ours.prior(**given)
    assert isinstance(again, PriorOutput)
    assert all(torch.equal(again[name], kept[name]) for name in kept)


def test_states_without_pictures_give_the_text_encoder_no_gradient(ours: Cascade) -> None:
    states = randn(1, 77, 32).requires_grad_()
    got = ours.prior(prompt_embeds=states, prompt_embeds_pooled=randn(1, 1, 32), seed=1, **SMALL, **STEPS)
    assert not got[0].requires_grad


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SURROUNDINGS: dict[str, Any] = {
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "another device": lambda: torch.device("meta"),
}


def every_part(model: Cascade) -> list[torch.Tensor]:
    text = "a (red:1.3) cat"
    given = {"seed": 3, "num_inference_steps": 1, **SMALL}
    prior = model.prior(
        text,
        images=picture(1),
        init_image=picture(2),
        mask=picture(3).convert("L"),
        control_image=picture(4),
        **NEGATIVE,
        **given,
    )
    decoded = model.decode(prior[0], text, seed=3, num_inference_steps=1, tile=128, output_type="pt")
    return [*prior.to_tuple(), decoded[0]]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def expected(whole: Path) -> list[torch.Tensor]:
    return every_part(loaded(whole))


def loaded(folder: Path) -> Cascade:
    return Cascade.load(
        folder,
        device="cpu",
        text={"weighting": True, "long_prompts": "windows"},
        image_encoder=folder / "image_encoder",
        effnet_encoder=folder / "effnet_encoder.safetensors",
        controlnet=folder / "controlnet.safetensors",
    )


@pytest.mark.parametrize("surrounding", SURROUNDINGS)
def test_what_surrounds_a_call_changes_no_bit(
    whole: Path, expected: list[torch.Tensor], surrounding: str
) -> None:
    """Neither of this call, which loads the model, nor of a later one, which finds the text encoder's states kept."""
    with SURROUNDINGS[surrounding]():
        model = loaded(whole)
        inside = every_part(model)
    for got in (inside, every_part(model)):
        assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


def test_a_call_leaves_its_surroundings_alone(ours: Cascade) -> None:
    before = switches()
    ours.render(
        "a red cat", generator=generators([1]), prior_num_inference_steps=1, num_inference_steps=1, **SMALL
    )
    ours.render("a red cat", seed=1, prior_num_inference_steps=1, num_inference_steps=1, **SMALL)
    Cascade.load("tiny", device="cpu").prior("a red cat", seed=1, num_inference_steps=1, **SMALL)
    for name, value in switches().items():
        assert np.array_equal(value, before[name]), name


def switches() -> dict[str, Any]:
    return {
        "torch's generator": torch.get_rng_state().numpy(),
        "numpy's generator": np.random.get_state()[1],
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "TF32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "benchmark": torch.backends.cudnn.benchmark,
        "cuDNN attention": torch.backends.cuda.cudnn_sdp_enabled(),
    }


def test_without_seed_or_generator_torchs_own_decides(ours: Cascade) -> None:
    given = {"prompt": "a red cat", "num_inference_steps": 1, **SMALL}
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(ours.prior(**given)[0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
