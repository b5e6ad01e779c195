"""Every argument of the published pipelines that works there gives the same here, from the same folder of weights.

Each row is a call of theirs and the same call of ours; the largest difference is relative to the largest value.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from cascade_batch.api import Cascade, ImagesOutput, PriorOutput
from tests.engine.oracle import decoder_pipeline, generators, prior_pipeline, relative_error
from tests.whole_model import VISION, write_image_encoder

TOLERANCE = 5e-5
SIZE = {"height": 256, "width": 384}
PROMPTS = ["a red cat", "two boats on the sea at night"]


def picture(seed: int, size: tuple[int, int] = (90, 70)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_encoder(tmp_path_factory.mktemp("model") / "image_encoder")


@pytest.fixture(scope="module")
def ours(encoder: Path) -> Cascade:
    return our_model(encoder)


@pytest.fixture(scope="module")
def their_prior(encoder: Path) -> Any:
    return prior_with_pictures(encoder)


@pytest.fixture(scope="module")
def their_decoder() -> Any:
    return decoder_pipeline()


def our_model(encoder: Path) -> Cascade:
    return Cascade.load("tiny", image_encoder=str(encoder), device="cpu")


def prior_with_pictures(encoder: Path) -> Any:
    """Their prior, with an image encoder and CLIP's processor."""
    pipeline, side = prior_pipeline(), VISION["image_size"]
    pipeline.register_modules(
        image_encoder=CLIPVisionModelWithProjection.from_pretrained(encoder),
        feature_extractor=CLIPImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ),
    )
    return pipeline


def halved(
    _pipeline: Any, _step: int, _time: Any, tensors: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    return {"latents": tensors["latents"] * 0.5}


PRIOR: dict[str, dict[str, Any]] = {
    "one prompt": {"prompt": "a red cat", "generator": [1]},
    "steps": {"prompt": PROMPTS, "num_inference_steps": 5, "generator": [1, 2]},
    "without guidance": {"prompt": PROMPTS, "guidance_scale": 1.0, "generator": [1, 2]},
    "negative prompts": {"prompt": PROMPTS, "negative_prompt": ["blue", ""], "generator": [1, 2]},
    "images per prompt": {"prompt": PROMPTS, "num_images_per_prompt": 2, "generator": [1, 2, 3, 4]},
    "one generator for all": {"prompt": PROMPTS, "generator": 5},
    "latents": {"prompt": PROMPTS, "latents": randn(2, 16, 6, 9), "generator": [1, 2]},
    "prompt_embeds": {
        "prompt_embeds": randn(2, 77, 32),
        "prompt_embeds_pooled": randn(2, 1, 32),
        "negative_prompt_embeds": randn(2, 77, 32),
        "negative_prompt_embeds_pooled": randn(2, 1, 32),
        "num_images_per_prompt": 2,
        "generator": [1, 2, 3, 4],
    },
    "154 tokens": {
        "prompt_embeds": randn(1, 154, 32),
        "prompt_embeds_pooled": randn(1, 1, 32),
        "negative_prompt_embeds": randn(1, 154, 32),
        "negative_prompt_embeds_pooled": randn(1, 1, 32),
        "generator": [1],
    },
    "a picture": {"prompt": PROMPTS, "images": [picture(1)], "generator": [1, 2]},
    "two pictures": {"prompt": "", "images": [picture(1), picture(2, (64, 130))], "generator": [1]},
    "image_embeds": {"prompt": PROMPTS, "image_embeds": randn(1, 2, 16), "generator": [1, 2]},
    "callback": {"prompt": "a red cat", "callback_on_step_end": halved, "generator": [1]},
}


@pytest.mark.parametrize("row", PRIOR)
def test_prior(ours: Cascade, their_prior: Any, row: str) -> None:
    errors = prior_errors(ours, their_prior, row)
    assert errors == {name: error for name, error in errors.items() if error < TOLERANCE}


def prior_errors(ours: Cascade, their_prior: Any, row: str) -> dict[str, float]:
    """Relative error of each output of a row."""
    given = {"num_inference_steps": 3, **SIZE, **PRIOR[row]}
    theirs = their_prior(**given | {"generator": drawn(given)})
    got = ours.prior(**given | {"generator": drawn(given)})
    assert isinstance(got, PriorOutput)
    names = ["image_embeddings", "prompt_embeds", "prompt_embeds_pooled"]
    if given.get("guidance_scale", 4.0) > 1:
        names += ["negative_prompt_embeds", "negative_prompt_embeds_pooled"]
    return {name: relative_error(getattr(got, name), getattr(theirs, name)) for name in names}


def test_prior_as_arrays(ours: Cascade, their_prior: Any) -> None:
    given = {"prompt": PROMPTS, "num_inference_steps": 2, "output_type": "np", **SIZE}
    theirs = their_prior(**given, generator=generators([1, 2]), return_dict=False)
    got = ours.prior(**given, generator=generators([1, 2]), return_dict=False)
    assert isinstance(got, tuple)
    assert len(got) == len(theirs) == 5
    for one, other in zip(got, theirs, strict=True):
        assert isinstance(one, np.ndarray)  # theirs leave the pooled states tensors
        assert relative_error(torch.from_numpy(one), torch.as_tensor(other)) < TOLERANCE


DECODER: dict[str, dict[str, Any]] = {
    "one prompt": {"image_embeddings": randn(1, 16, 6, 9), "prompt": "a red cat", "generator": [1]},
    "steps": {"prompt": PROMPTS, "num_inference_steps": 5, "generator": [1, 2]},
    "guidance": {"prompt": PROMPTS, "guidance_scale": 1.5, "generator": [1, 2]},
    "negative prompts": {
        "prompt": PROMPTS,
        "guidance_scale": 1.5,
        "negative_prompt": ["blue", ""],
        "generator": [1, 2],
    },
    "embeddings per prompt": {"prompt": "a red cat", "generator": [1, 2]},
    "a list of embeddings": {
        "image_embeddings": [randn(1, 16, 6, 9), randn(1, 16, 6, 9) / 2],
        "prompt": PROMPTS,
        "generator": [1, 2],
    },
    "one generator for all": {"prompt": PROMPTS, "generator": 5},
    "latents": {"prompt": PROMPTS, "latents": randn(2, 4, 64, 96), "generator": [1, 2]},
    "pooled states": {
        "prompt_embeds": randn(2, 77, 32),
        "prompt_embeds_pooled": randn(2, 1, 32),
        "negative_prompt_embeds": randn(2, 77, 32),
        "negative_prompt_embeds_pooled": randn(2, 1, 32),
        "guidance_scale": 2.0,
        "generator": [1, 2],
    },
    "callback": {"prompt": PROMPTS, "callback_on_step_end": halved, "generator": [1, 2]},
}


@pytest.mark.parametrize("output_type", ["latent", "pt", "np", "pil"])
@pytest.mark.parametrize("row", DECODER)
def test_decoder(ours: Cascade, their_decoder: Any, row: str, output_type: str) -> None:
    got, theirs = decoder_outputs(ours, their_decoder, row, output_type)
    if output_type == "pil":
        for one, other in zip(got, theirs, strict=True):
            assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1
    else:
        assert relative_error(torch.as_tensor(got), torch.as_tensor(theirs)) < TOLERANCE


def decoder_outputs(ours: Cascade, their_decoder: Any, row: str, output_type: str) -> tuple[Any, Any]:
    """Our images of a row, and theirs."""
    given = {"image_embeddings": randn(2, 16, 6, 9), "num_inference_steps": 3, **DECODER[row]}
    given["output_type"] = output_type
    theirs = their_decoder(**given | {"generator": drawn(given)}).images
    got = ours.decode(**given | {"generator": drawn(given)})
    assert isinstance(got, ImagesOutput)
    return got.images, theirs


def test_both_stages_with_generators_that_go_on(ours: Cascade, their_prior: Any, their_decoder: Any) -> None:
    """The combined pipeline hands its generators, as they stand after the prior, to the decoder."""
    shared, steps = generators([3, 4]), {"num_inference_steps": 3}
    seen = their_prior(PROMPTS, generator=shared, **SIZE, **steps)
    theirs = their_decoder(
        seen.image_embeddings,
        prompt_embeds=seen.prompt_embeds,
        prompt_embeds_pooled=seen.prompt_embeds_pooled,
        negative_prompt_embeds=seen.negative_prompt_embeds,
        negative_prompt_embeds_pooled=seen.negative_prompt_embeds_pooled,
        generator=shared,
        output_type="np",
        **steps,
    ).images
    got = ours.render(
        PROMPTS, generator=generators([3, 4]), output_type="np", prior_num_inference_steps=3, **SIZE, **steps
    )
    assert isinstance(got, ImagesOutput)
    assert np.abs(got.images - theirs).max() * 255 <= 1


def drawn(given: dict[str, Any]) -> Any:
    """Fresh generators of a row's seeds: a list, or one for all images."""
    seeds = given["generator"]
    return torch.Generator().manual_seed(seeds) if isinstance(seeds, int) else generators(seeds)
