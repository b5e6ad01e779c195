"""What goes wrong in the published pipelines (diffusers 0.42), and goes right here, one test for each.

Where their call can be made here, the test also shows that it still fails, so that a row can go once they mend it.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cascade_batch.api import Cascade, ImagesOutput, PriorOutput
from cascade_batch.errors import SpecError
from cascade_batch.model.config import TINY_STAGE_C
from tests.api.test_parity import PROMPTS, SIZE, picture, randn
from tests.engine.oracle import decoder_pipeline, generators, pair_c, prior_pipeline, relative_error
from tests.whole_model import write_image_encoder

STEPS = {"num_inference_steps": 2}
STATES = {"prompt_embeds": randn(2, 77, 32), "prompt_embeds_pooled": randn(2, 1, 32)}
NEGATIVE_STATES = {
    "negative_prompt_embeds": randn(2, 77, 32),
    "negative_prompt_embeds_pooled": randn(2, 1, 32),
}


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Cascade:
    encoder = write_image_encoder(tmp_path_factory.mktemp("model") / "image_encoder")
    return Cascade.load("tiny", image_encoder=str(encoder), device="cpu")


@pytest.fixture(scope="module")
def their_prior() -> Any:
    return prior_pipeline()


@pytest.fixture(scope="module")
def their_decoder() -> Any:
    return decoder_pipeline()


def embeddings(ours: Cascade, seeds: int = 2, **given: Any) -> torch.Tensor:
    output = ours.prior(**{**SIZE, **STEPS, "generator": generators(list(range(seeds))), **given})
    assert isinstance(output, PriorOutput)
    return output.image_embeddings


def decoded(ours: Cascade, given: Any, **more: Any) -> np.ndarray:
    output = ours.decode(given, **{**STEPS, "output_type": "np", **more})
    assert isinstance(output, ImagesOutput)
    return output.images


def test_1_sca_and_crp_are_numbers_of_any_batch(ours: Cascade) -> None:
    plain, same = embeddings(ours, prompt=PROMPTS), embeddings(ours, prompt=PROMPTS, sca=0.0, crp=0.0)
    assert torch.equal(plain, same)
    assert not torch.equal(plain, embeddings(ours, prompt=PROMPTS, sca=0.3))
    assert not torch.equal(plain, embeddings(ours, prompt=PROMPTS, crp=0.3))
    theirs, net = pair_c(TINY_STAGE_C)
    latents, ratio, pooled, text = randn(1, 16, 6, 6), torch.tensor([0.4]), randn(1, 32), randn(1, 77, 32)
    pictures, extra = torch.zeros(1, 1, 16), torch.tensor([0.7])
    expected = theirs(latents, ratio, pooled[:, None], text, pictures, sca=extra, crp=extra / 2).sample
    prepared = net.prepare(text, pooled, ratio, conditions={"sca": 0.7, "crp": 0.35})
    assert relative_error(net.step(latents, prepared, 0), expected) < 1e-4
    with pytest.raises(RuntimeError, match="ambiguous"):
        theirs(latents, ratio, pooled[:, None], text, pictures, sca=torch.tensor([0.7, 0.7]))


def test_2_pooled_states_of_two_dimensions(ours: Cascade) -> None:
    flat = STATES | {"prompt_embeds_pooled": STATES["prompt_embeds_pooled"][:, 0]}
    assert torch.equal(embeddings(ours, **STATES), embeddings(ours, **flat))


def test_3_text_counts_with_and_without_a_picture(ours: Cascade) -> None:
    without = embeddings(ours, prompt=PROMPTS), embeddings(ours, prompt=PROMPTS[::-1])
    shown = [picture(1)]
    seen = (
        embeddings(ours, prompt=PROMPTS, images=shown),
        embeddings(ours, prompt=PROMPTS[::-1], images=shown),
    )
    for one, other in (without, seen):
        assert not torch.allclose(one, other)


def test_4_negative_states_without_guidance(ours: Cascade, their_prior: Any) -> None:
    given = {**STATES, **NEGATIVE_STATES, "guidance_scale": 1.0}
    assert torch.equal(embeddings(ours, **given), embeddings(ours, **STATES, guidance_scale=1.0))
    with pytest.raises(RuntimeError):
        their_prior(**given, **SIZE, **STEPS)


def test_5_a_negative_text_beside_states_and_for_a_list(ours: Cascade, their_prior: Any) -> None:
    states = embeddings(ours, **STATES, negative_prompt="blue")
    assert not torch.equal(states, embeddings(ours, **STATES))
    for_each = embeddings(ours, prompt=PROMPTS, negative_prompt=["blue", "blue"])
    assert torch.equal(embeddings(ours, prompt=PROMPTS, negative_prompt="blue"), for_each)
    with pytest.raises(TypeError):
        their_prior(PROMPTS, negative_prompt="blue", **SIZE, **STEPS)


def test_6_long_states_need_no_negative_ones(ours: Cascade, their_prior: Any) -> None:
    """The empty text fills up the shorter side, window by window."""
    given = {"prompt_embeds": randn(1, 154, 32), "prompt_embeds_pooled": randn(1, 1, 32)}
    empty = their_prior.encode_prompt("cpu", 1, 1, False, prompt="")
    spelled = {
        "negative_prompt_embeds": torch.cat([empty[0], empty[0]], dim=1),
        "negative_prompt_embeds_pooled": empty[1],
    }
    got, expected = embeddings(ours, 1, **given), embeddings(ours, 1, **given, **spelled)
    assert relative_error(got, expected) < 1e-4
    with pytest.raises(RuntimeError):
        their_prior(**given, **SIZE, **STEPS)


def test_7_time_steps_are_heeded_in_both_stages(ours: Cascade, their_prior: Any) -> None:
    times = [1.0, 0.8, 0.5, 0.0]
    own = embeddings(ours, prompt=PROMPTS, timesteps=times)
    assert not torch.allclose(own, embeddings(ours, prompt=PROMPTS, num_inference_steps=3))
    evenly = embeddings(ours, prompt=PROMPTS, timesteps=torch.linspace(1, 0, 3).tolist())
    assert torch.equal(evenly, embeddings(ours, prompt=PROMPTS, num_inference_steps=2))
    assert torch.equal(
        own, embeddings(ours, prompt=PROMPTS, timesteps=times[:-1])
    )  # the end goes without saying
    drawn = {"generator": generators([1, 2])}
    assert not np.allclose(
        decoded(ours, own, prompt=PROMPTS, timesteps=times, **drawn),
        decoded(ours, own, prompt=PROMPTS, generator=generators([1, 2]), num_inference_steps=3),
    )
    theirs = [
        their_prior(PROMPTS, generator=generators([1, 2]), **SIZE, **STEPS, **more).image_embeddings
        for more in ({}, {"timesteps": times})
    ]
    assert torch.equal(*theirs)  # ignored there
    for wrong in ([0.5, 0.8], [1.5, 0.0], [0.0], [1.0, 1.0]):
        with pytest.raises(SpecError, match="no time steps"):
            embeddings(ours, prompt=PROMPTS, timesteps=wrong)


def test_8_one_picture_in_every_form(ours: Cascade) -> None:
    image = picture(3)
    pixels = np.asarray(image)
    whole = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    expected = embeddings(ours, prompt=PROMPTS, images=[image])
    for form in (image, pixels, whole, whole[None], whole[None].float() / 255, [[image], [image]]):
        assert torch.equal(embeddings(ours, prompt=PROMPTS, images=form), expected)
    with pytest.raises(TypeError):
        prior_pipeline()(PROMPTS, images=image, **SIZE, **STEPS)


def test_8_latents_and_states_of_another_dtype(ours: Cascade) -> None:
    latents, states = randn(2, 16, 6, 9), {name: each.double() for name, each in STATES.items()}
    assert torch.equal(
        embeddings(ours, prompt=PROMPTS, latents=latents.double()),
        embeddings(ours, prompt=PROMPTS, latents=latents),
    )
    assert torch.equal(embeddings(ours, **states), embeddings(ours, **STATES))
    with pytest.raises(SpecError, match=re.escape("(2, 16, 6, 9)")):
        embeddings(ours, prompt=PROMPTS, latents=randn(2, 16, 9, 6))


def test_9_the_decoder_needs_pooled_states_alone(ours: Cascade, their_decoder: Any) -> None:
    given, drawn = randn(2, 16, 6, 9), [1, 2]
    pooled = {"prompt_embeds_pooled": STATES["prompt_embeds_pooled"]}
    assert np.array_equal(
        decoded(ours, given, **pooled, generator=generators(drawn)),
        decoded(ours, given, **STATES, generator=generators(drawn)),
    )
    with pytest.raises(SpecError, match="prompt_embeds_pooled"):
        decoded(ours, given, prompt_embeds=STATES["prompt_embeds"])
    with pytest.raises(ValueError, match="prompt"):
        their_decoder(given, **pooled, **STEPS)


def test_10_guidance_of_the_decoder_without_negative_states(ours: Cascade, their_decoder: Any) -> None:
    given, guided = randn(2, 16, 6, 9), {"guidance_scale": 2.0}
    got = decoded(ours, given, **STATES, **guided, generator=generators([1, 2]))
    spelled = decoded(ours, given, **STATES, negative_prompt="", **guided, generator=generators([1, 2]))
    assert np.array_equal(got, spelled)
    mixed = decoded(ours, given, prompt=PROMPTS, **NEGATIVE_STATES, **guided, generator=generators([1, 2]))
    assert not np.array_equal(mixed, got)
    with pytest.raises(TypeError):
        their_decoder(given, **STATES, **guided, **STEPS)


def test_11_several_pictures_of_each_embedding(ours: Cascade, their_decoder: Any) -> None:
    given = randn(2, 16, 6, 9)
    got = decoded(ours, given, prompt=PROMPTS, num_images_per_prompt=2, generator=generators([1, 2, 3, 4]))
    assert got.shape == (4, 256, 384, 3)
    alone = decoded(ours, given[1:], prompt=PROMPTS[1], generator=generators([4]))
    assert np.abs(got[3] - alone[0]).max() < 1e-4
    with pytest.raises((RuntimeError, ValueError)):
        their_decoder(given, PROMPTS, num_images_per_prompt=2, guidance_scale=2.0, **STEPS)


@pytest.mark.parametrize("count", [1, 3])
def test_12_embeddings_that_do_not_match_the_prompts(ours: Cascade, count: int) -> None:
    with pytest.raises(SpecError, match=f"{count} images.*\n.*multiple of 2"):
        decoded(ours, randn(count, 16, 6, 9), prompt=PROMPTS)


def test_13_guidance_in_the_decoder_alone(ours: Cascade) -> None:
    output = ours.render(
        PROMPTS,
        prior_guidance_scale=1.0,
        decoder_guidance_scale=1.5,
        prior_num_inference_steps=2,
        num_inference_steps=2,
        seed=1,
        output_type="np",
        **SIZE,
    )
    assert isinstance(output, ImagesOutput)
    assert output.images.shape == (2, 256, 384, 3)


def test_13_defaults_are_those_of_the_separate_pipelines(ours: Cascade) -> None:
    spoken: list[tuple[str, int]] = []

    def note(stage: str) -> Any:
        return lambda _model, step, _time, _tensors: spoken.append((stage, step))

    output = ours.render(
        "a red cat",
        prior_callback_on_step_end=note("prior"),
        callback_on_step_end=note("decoder"),
        output_type="pt",
        seed=1,
    )
    assert isinstance(output, ImagesOutput)
    assert output.images.shape == (1, 3, 1024, 1024)
    assert [stage for stage, _ in spoken] == ["prior"] * 20 + ["decoder"] * 10


@pytest.mark.parametrize("given", [{"output_type": "jpg"}, {"callback_on_step_end_tensor_inputs": ["text"]}])
def test_what_is_unknown_is_refused(ours: Cascade, given: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="unknown"):
        ours.prior("a red cat", **given)


def test_every_size_that_is_a_multiple_of_8(ours: Cascade, their_decoder: Any) -> None:
    output = ours.render(
        "a red cat",
        height=320,
        width=264,
        prior_num_inference_steps=1,
        num_inference_steps=1,
        output_type="np",
        seed=1,
    )
    assert isinstance(output, ImagesOutput)
    assert output.images.shape == (1, 320, 264, 3)
    with pytest.raises(RuntimeError):
        their_decoder(randn(1, 16, 8, 8), "a red cat", **STEPS)


def test_low_memory_gives_the_same(tmp_path: Path) -> None:
    calls = {"seed": 3, "output_type": "np", "prior_num_inference_steps": 2, **STEPS, **SIZE}
    pictures = []
    for low_memory in (False, True):
        model = Cascade.load("tiny", device="cpu", low_memory=low_memory)
        output = model.render(PROMPTS, **calls)
        assert isinstance(output, ImagesOutput)
        pictures.append(output.images)
        assert model._stages.loaded == ({"decoder"} if low_memory else {"prior", "decoder"})
    assert np.array_equal(*pictures)


def test_stage_a_in_tiles(ours: Cascade) -> None:
    """A tile sees all that its pixels depend on, so only rounding differs."""
    given = randn(1, 16, 12, 9)
    whole = decoded(ours, given, prompt="a red cat", seed=1)
    for tile in (64, 100, 256):
        assert np.abs(decoded(ours, given, prompt="a red cat", seed=1, tile=tile) - whole).max() < 1e-4
