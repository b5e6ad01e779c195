"""What a call is given: what means a value works, all else is refused by name before weights are read."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    StableCascadeCombinedPipeline,
    StableCascadeDecoderPipeline,
    StableCascadePriorPipeline,
)

from cascade_batch.api import Cascade, ImagesOutput, PriorOutput
from cascade_batch.errors import CascadeError, SpecError
from tests.api.test_parity import PROMPTS, randn
from tests.engine.oracle import generators

SMALL = {"height": 256, "width": 256}
GIVEN: dict[str, dict[str, Any]] = {
    "prior": {"prompt": PROMPTS, "num_inference_steps": 1, "seed": 1, **SMALL},
    "decode": {
        "image_embeddings": randn(2, 16, 6, 6),
        "prompt": PROMPTS,
        "num_inference_steps": 1,
        "seed": 1,
        "output_type": "np",
    },
    "render": {
        "prompt": PROMPTS,
        "prior_num_inference_steps": 1,
        "num_inference_steps": 1,
        "seed": 1,
        "output_type": "np",
        **SMALL,
    },
}
NAN, INF = float("nan"), float("inf")
NO_WHOLE: list[Any] = [
    None,
    True,
    0,
    -1,
    1.0,
    NAN,
    "3",
    10**9,
    10**5000,
    [3],
    np.float32(3),
    np.array([3]),
    torch.tensor(3.0),
]
NO_SCALE: list[Any] = [
    True,
    "4",
    -0.5,
    NAN,
    INF,
    -INF,
    1e39,
    [],
    [4.0],
    [4.0, NAN],
    [4.0, None],
    {},
    4j,
    torch.tensor(NAN),
]
NO_TEXTS: list[Any] = [
    3,
    b"a",
    [],
    [[]],
    [3, "a"],
    [b"a", "b"],
    {"a": 1},
    Path("a"),
    "half \ud83d",
    np.array([]),
    object(),
]
NO_TIMES: list[Any] = [
    [],
    (),
    "x",
    3,
    0.5,
    [NAN],
    [1.0, INF],
    [0.2, 0.4],
    [1.5],
    [-0.5],
    [[1.0]],
    [None],
    torch.tensor(1.0),
]
NO_SIDE: list[Any] = [True, 0, -256, 255, 257, 1000.0, 5000, 10**5000, "256", [256], NAN, np.float64(512)]
NO_ARRAY: list[Any] = [3, "x", [], [[1.0], [1.0, 2.0]], np.zeros((0, 16, 6, 6)), randn(2, 16, 6, 6) * NAN]
NO_SEED: list[Any] = [
    True,
    1.0,
    -1,
    2**63,
    "1",
    [1],
    [1, 2, 3],
    [1, -1],
    [1, None],
    {1, 2},
    np.array([1.0, 2.0]),
]
NO_NUMBER: list[Any] = [None, True, "1", NAN, INF, 1e6, [1.0], torch.tensor([1.0])]
WRONG: dict[str, dict[str, list[Any]]] = {
    "prior": {
        "prompt": [None, [None, "a"], *NO_TEXTS],
        "negative_prompt": [["a", "b", "c"], *NO_TEXTS],
        "height": [None, *NO_SIDE],
        "width": [None, *NO_SIDE],
        "num_inference_steps": NO_WHOLE,
        "num_images_per_prompt": NO_WHOLE,
        "guidance_scale": [None, *NO_SCALE],
        "timesteps": NO_TIMES,
        "seed": NO_SEED,
        "latents": [[[0.0]], *NO_ARRAY],
        "image_embeds": NO_ARRAY,
        "sca": NO_NUMBER,
        "crp": NO_NUMBER,
        "strength": [True, "1", NAN, -0.1, 1.1, [1.0]],
        "control_strength": NO_NUMBER,
        "output_type": [None, "pil", "PT", 3, ["pt"]],
        "callback_on_step_end": [3, "x"],
        "callback_on_step_end_tensor_inputs": [["text"], "latents ", 3, [None]],
    },
    "decode": {
        "image_embeddings": [None, randn(16, 6), [randn(1, 16, 6, 6), randn(1, 16, 6, 9)], *NO_ARRAY],
        "height": NO_SIDE,
        "width": NO_SIDE,
        "num_inference_steps": NO_WHOLE,
        "num_images_per_prompt": NO_WHOLE,
        "guidance_scale": NO_SCALE,
        "timesteps": NO_TIMES,
        "seed": NO_SEED,
        "latents": NO_ARRAY,
        "tile": [True, 0, -64, 8, 512.0, 5000, "512"],
        "output_type": [None, "jpg", "PIL"],
    },
    "render": {
        "prior_num_inference_steps": NO_WHOLE,
        "num_inference_steps": NO_WHOLE,
        "prior_guidance_scale": [None, *NO_SCALE],
        "decoder_guidance_scale": NO_SCALE,
        "prior_timesteps": NO_TIMES,
        "decoder_timesteps": NO_TIMES,
        "decoder_latents": [randn(2, 4, 6, 6), randn(1, 4, 64, 64), *NO_ARRAY],
        "tile": [0, -64, 512.0],
        "seed": NO_SEED,
    },
}


@pytest.fixture(scope="module")
def ours() -> Cascade:
    return Cascade.load("tiny", device="cpu")


@pytest.mark.parametrize(("method", "name"), [(m, name) for m, rows in WRONG.items() for name in rows])
def test_what_is_wrong_is_named_before_weights_are_read(method: str, name: str) -> None:
    model = Cascade.load("tiny", device="cpu")
    for value in WRONG[method][name]:
        with pytest.raises(SpecError) as caught:
            getattr(model, method)(**GIVEN[method] | {name: value})
        assert name in str(caught.value)
    assert model._stages.loaded == set()


@pytest.mark.parametrize(
    "wrong",
    [[], [None, None], [torch.Generator()] * 3, 3, "x", np.random.default_rng(1), [torch.Generator(), 3]],
)
def test_generators_that_are_none(ours: Cascade, wrong: Any) -> None:
    with pytest.raises(SpecError, match="generator"):
        ours.prior(**GIVEN["prior"] | {"seed": None, "generator": wrong})


SAME: dict[str, tuple[str, dict[str, Any], list[dict[str, Any]]]] = {
    "steps": (
        "prior",
        {"num_inference_steps": 2},
        [{"num_inference_steps": s} for s in (np.int64(2), torch.tensor(2))],
    ),
    "size": ("prior", {"width": 320}, [{"width": np.int32(320)}, {"width": np.array(320)}]),
    "copies": ("prior", {"num_images_per_prompt": 2}, [{"num_images_per_prompt": np.uint8(2)}]),
    "scale": (
        "prior",
        {"guidance_scale": 3},
        [
            {"guidance_scale": s}
            for s in (np.float32(3), torch.tensor(3.0), [3.0, 3], torch.tensor([3, 3]), np.full(2, 3.0))
        ],
    ),
    "seed": (
        "prior",
        {"seed": 7},
        [{"seed": s} for s in (np.uint64(7), [7, 8], np.array([7, 8]), torch.tensor([7, 8]), range(7, 9))],
    ),
    "times": (
        "prior",
        {"timesteps": [1.0, 0.5]},
        [{"timesteps": t} for t in (np.array([1, 0.5]), torch.tensor([1, 0.5, 0]))],
    ),
    "texts": (
        "prior",
        {"prompt": PROMPTS},
        [{"prompt": p} for p in (tuple(PROMPTS), np.array(PROMPTS), iter(PROMPTS))],
    ),
    "negatives": (
        "prior",
        {"negative_prompt": ["blue", ""]},
        [{"negative_prompt": n} for n in (("blue", None), np.array(["blue", ""]))],
    ),
    "embeddings": (
        "decode",
        {},
        [
            {"image_embeddings": e}
            for e in (
                randn(2, 16, 6, 6).double(),
                randn(2, 16, 6, 6).numpy(),
                list(randn(2, 16, 6, 6)),
                randn(2, 16, 6, 6).tolist(),
            )
        ],
    ),
    "all at once": (
        "render",
        {"prompt": PROMPTS, "seed": 5, "prior_guidance_scale": 2.0, "decoder_guidance_scale": 2},
        [
            {
                "prompt": iter(PROMPTS),
                "seed": iter([5, 6]),
                "prior_guidance_scale": iter([2, 2]),
                "decoder_guidance_scale": torch.tensor(2),
            }
        ],
    ),
}


@pytest.mark.parametrize("row", SAME)
def test_values_of_numpy_and_torch_are_those_of_python(ours: Cascade, row: str) -> None:
    method, plain, others = SAME[row]
    expected = getattr(ours, method)(**GIVEN[method] | plain)[0]
    for other in others:
        got = getattr(ours, method)(**GIVEN[method] | other)[0]
        assert torch.equal(torch.as_tensor(got), torch.as_tensor(expected)), other


def test_a_list_of_one_generator_draws_for_all(ours: Cascade) -> None:
    given = GIVEN["prior"] | {"seed": None}
    one = ours.prior(**given, generator=generators([5])[0])[0]
    assert torch.equal(ours.prior(**given, generator=generators([5]))[0], one)


def test_texts_of_every_kind_render(ours: Cascade) -> None:
    given = GIVEN["prior"] | {"prompt": ["", "   ", "a\0b", "🐈 猫", "a cat " * 20_000, "a" * 100_000]}
    assert len(ours.prior(**given)[0]) == 6


def test_two_prompts_do_not_share_one_embedding(ours: Cascade) -> None:
    given = GIVEN["decode"] | {"image_embeddings": randn(1, 16, 6, 6), "num_images_per_prompt": 2}
    with pytest.raises(SpecError, match="embeddings do not match the prompts"):
        ours.decode(**given)


@pytest.mark.parametrize(
    ("embeddings", "states"),
    [((2, 4, 6, 6), (2, 32)), ((2, 16, 6, 6), (2, 48))],
    ids=["embeddings", "states"],
)
def test_what_does_not_fit_stage_b(ours: Cascade, embeddings: tuple, states: tuple) -> None:
    with pytest.raises(SpecError, match="do not fit the model"):
        ours.decode(randn(*embeddings), prompt_embeds_pooled=randn(*states), num_inference_steps=1)


@pytest.mark.parametrize(
    "answer", [3, [randn(2, 16, 6, 6)], {"latents": None}, {"latents": randn(1, 16, 6, 6)}]
)
def test_a_callback_that_answers_something_else(ours: Cascade, answer: Any) -> None:
    with pytest.raises(SpecError, match="callback_on_step_end"):
        ours.prior(**GIVEN["prior"], callback_on_step_end=lambda *_: answer)


def test_a_callback_may_answer_in_another_dtype(ours: Cascade) -> None:
    def halved(_model: Cascade, _step: int, _time: float, given: Mapping[str, Any]) -> dict[str, Any]:
        return {"latents": given["latents"].double() / 2}

    def in_place(_model: Cascade, _step: int, _time: float, given: Mapping[str, Any]) -> None:
        given["latents"].mul_(0.5)

    got = [ours.prior(**GIVEN["prior"], callback_on_step_end=each)[0] for each in (halved, in_place)]
    assert torch.equal(*got)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Cascade.prior, StableCascadePriorPipeline.__call__),
        (Cascade.decode, StableCascadeDecoderPipeline.__call__),
        (Cascade.render, StableCascadeCombinedPipeline.__call__),
    ],
)
def test_arguments_stand_where_the_published_pipelines_have_them(ours: Callable, theirs: Callable) -> None:
    names = [
        name for name, one in inspect.signature(ours).parameters.items() if one.kind is not one.KEYWORD_ONLY
    ]
    assert names == list(inspect.signature(theirs).parameters)


@pytest.mark.parametrize("method", ["prior", "decode", "render"])
def test_an_unknown_argument_is_pythons_own_error(ours: Cascade, method: str) -> None:
    with pytest.raises(
        TypeError, match=rf"Cascade.{method}\(\) got an unexpected keyword argument 'cfg_scale'"
    ):
        getattr(ours, method)(**GIVEN[method], cfg_scale=4.0)


@pytest.mark.parametrize(
    ("given", "needle"),
    [
        ({"torch_dtype": torch.bfloat16}, "did you mean dtype?"),
        ({"dtype": torch.float16}, "outgrow float16"),
        ({"dtype": torch.float64}, "model.dtype.c"),
        ({"dtype": None}, "model.dtype"),
        ({"stage_c": ""}, "model.stage_c"),
        ({"stage_c": Path("nowhere")}, "nowhere"),
        ({"sampler": None}, "sampler.preset"),
        ({"sampler": {"c": {"method": ""}}}, "sampler.c.method"),
        ({"sampler": {"c": {"shift": torch.tensor(NAN)}}}, "sampler.c.shift"),
        ({"text": "windows"}, "text"),
        ({"loras": [Path("a")]}, "model.loras[0]"),
        ({"model": None}, "model.name"),
        ({"model": Path("nowhere")}, "nowhere"),
    ],
    ids=repr,
)
def test_what_cannot_be_loaded_is_named(given: dict[str, Any], needle: str) -> None:
    with pytest.raises(CascadeError) as caught:
        Cascade.load(**{"model": "tiny", "device": "cpu", **given})
    assert needle in str(caught.value)


def test_paths_and_dtypes_load(tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(Path(inspect.getfile(Cascade)).parents[1] / "embedded" / "tiny")
    model = Cascade.load(tmp_path / "model", device="cpu", dtype={"c": torch.float32, "ba": torch.bfloat16})
    prior, pictures = model.prior(**GIVEN["prior"]), model.decode(**GIVEN["decode"])
    assert isinstance(prior, PriorOutput)
    assert isinstance(pictures, ImagesOutput)
    plain = Cascade.load("tiny", device="cpu")
    assert torch.equal(prior.image_embeddings, plain.prior(**GIVEN["prior"])[0])
    assert not np.array_equal(pictures.images, plain.decode(**GIVEN["decode"])[0])
