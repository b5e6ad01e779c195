"""The schedule, the noise and whole runs equal diffusers': 1e-5 a step, 1e-4 a run, 1 level of 255 a picture."""

import numpy as np
import pytest
import torch

from cascade_batch.engine.batches import DecoderBatch, PriorBatch
from cascade_batch.engine.decoder import Decoder
from cascade_batch.engine.prior import Prior
from cascade_batch.engine.sampler import ImageNoise, as_epsilon, denoise, generators_of
from cascade_batch.engine.schedule import make_schedule, time_ratios
from cascade_batch.errors import SpecError
from cascade_batch.model.config import TINY_STAGE_A, TINY_STAGE_B, TINY_STAGE_C
from tests.engine.oracle import (
    decoder_pipeline,
    generators,
    model_parts,
    our_decoder,
    our_prior,
    pair_a,
    pair_b,
    pair_c,
    prior_pipeline,
    relative_error,
    their_scheduler,
)

PROMPTS = ["a red cat", "Two boats on the sea, at night"]
NEGATIVES = ["blurry", ""]
SEEDS = [7, 2**63 - 1]


@pytest.mark.parametrize("steps", [1, 4, 20, 60])
def test_the_schedule_step_by_step(steps: int) -> None:
    theirs, ours = their_scheduler(), make_schedule(time_ratios(steps))
    theirs.set_timesteps(steps)
    assert len(ours) == steps
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for step, ratio in enumerate(theirs.timesteps[:-1]):
        assert ours.ratios[step] == ratio
        epsilon = torch.sin(latents * 3)
        noise = ImageNoise(generators_of([step, 5]), (4, 8, 8), "cpu").draw()
        expected = theirs.step(epsilon, ratio.expand(2), latents, generators([step, 5])).prev_sample
        got = ours.previous(latents, epsilon, noise, step)
        assert relative_error(got, expected) < 1e-5
        latents = expected


@pytest.mark.parametrize("guidance", [4.0, 1.0], ids=["guided", "unguided"])
@pytest.mark.parametrize("size", [(256, 256), (256, 384)])
def test_a_whole_prior_run(guidance: float, size: tuple[int, int]) -> None:
    theirs, ours = pair_c(TINY_STAGE_C)
    pipeline = prior_pipeline(theirs)
    expected = pipeline(
        PROMPTS, height=size[0], width=size[1], guidance_scale=guidance, negative_prompt=NEGATIVES,
        num_inference_steps=8, generator=generators(SEEDS),
    )  # fmt: skip
    got = our_prior(ours).render(PriorBatch(PROMPTS, NEGATIVES, SEEDS, *size, 8, [guidance] * 2))
    assert relative_error(torch.from_numpy(got.embeddings), expected.image_embeddings) < 1e-4
    assert relative_error(torch.from_numpy(got.pooled), expected.prompt_embeds_pooled[:, 0]) < 1e-5


@pytest.mark.parametrize("guidance", [1.5, 0.0], ids=["guided", "unguided"])
@pytest.mark.parametrize("size", [(256, 256), (384, 256)])
def test_a_whole_decoder_run(guidance: float, size: tuple[int, int]) -> None:
    (their_b, our_b), (their_a, our_a) = pair_b(TINY_STAGE_B), pair_a(TINY_STAGE_A)
    pipeline = decoder_pipeline(their_b, their_a)
    prior = our_prior(pair_c(TINY_STAGE_C)[1])
    images = prior.render(PriorBatch(PROMPTS, NEGATIVES, SEEDS, *size, 2, [1.0] * 2))
    embeddings = images.embeddings / np.abs(images.embeddings).max()
    expected = pipeline(
        torch.from_numpy(embeddings), PROMPTS, guidance_scale=guidance, negative_prompt=NEGATIVES,
        num_inference_steps=5, generator=generators(SEEDS), output_type="latent",
    )  # fmt: skip
    batch = DecoderBatch(embeddings, images.pooled, images.negative_pooled, SEEDS, *size, 5, [guidance] * 2)
    got = our_decoder(our_b, our_a).latents(batch)
    assert relative_error(got, expected.images) < 1e-4


@pytest.mark.parametrize(("size", "decoder_guidance"), [((256, 256), 0.0), ((256, 384), 1.5)])
def test_a_picture_equals_two_pipeline_calls(size: tuple[int, int], decoder_guidance: float) -> None:
    seeds = [3, 12345]
    prior, decoder = prior_pipeline(), decoder_pipeline()
    embeddings = prior(
        PROMPTS, height=size[0], width=size[1], negative_prompt=NEGATIVES, generator=generators(seeds)
    ).image_embeddings
    expected = decoder(
        embeddings, PROMPTS, negative_prompt=NEGATIVES, guidance_scale=decoder_guidance,
        generator=generators(seeds),
    ).images  # fmt: skip
    parts = model_parts()
    images = Prior.load(parts, "float32", "cpu").render(
        PriorBatch(PROMPTS, NEGATIVES, seeds, *size, 20, [4.0] * 2)
    )
    batch = DecoderBatch(
        images.embeddings, images.pooled, images.negative_pooled, seeds, *size, 10, [decoder_guidance] * 2
    )
    pictures = Decoder.load(parts, "float32", "cpu").render(batch).pixels
    for ours, theirs in zip(pictures, expected, strict=True):
        levels = np.abs(ours.astype(int) - np.asarray(theirs).astype(int))
        assert levels.max() <= 1
        assert ours.std() > 10


def test_each_image_has_its_own_guidance() -> None:
    prior = Prior.load(model_parts(), "float32", "cpu")

    def render(guidance: list[float]) -> np.ndarray:
        return prior.render(PriorBatch(PROMPTS, NEGATIVES, SEEDS, 256, 256, 3, guidance)).embeddings

    mixed, low, high = render([2.0, 6.0]), render([2.0, 2.0]), render([6.0, 6.0])
    np.testing.assert_array_equal(mixed[0], low[0])
    np.testing.assert_array_equal(mixed[1], high[1])
    assert not np.array_equal(low[1], high[1])


def test_guidance_on_and_off_do_not_share_a_batch() -> None:
    prior = Prior.load(model_parts(), "float32", "cpu")
    with pytest.raises(SpecError, match="with and without guidance"):
        prior.render(PriorBatch(PROMPTS, NEGATIVES, SEEDS, 256, 256, 3, [4.0, 1.0]))


def test_noise_depends_on_the_seed_alone() -> None:
    alone = ImageNoise(generators_of([5]), (4, 6, 7), "cpu")
    among = ImageNoise(generators_of([1, 5, 9]), (4, 6, 7), "cpu")
    for _ in range(3):
        assert torch.equal(alone.draw()[0], among.draw()[1])


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    prior = Prior.load(model_parts(), "float32", "cpu")
    prior.render(PriorBatch(PROMPTS, NEGATIVES, SEEDS, 256, 256, 2, [4.0] * 2))
    assert torch.equal(state, torch.get_rng_state())


def test_a_velocity_prediction_gives_the_same_latents() -> None:
    """From the definition: a network that knows x0 predicts it exactly in either form."""
    clean = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    schedule = make_schedule(time_ratios(6))

    def noise_in(latents: torch.Tensor, step: int, _guided: bool = False) -> torch.Tensor:
        signal = schedule.signal[step]
        return (latents - signal.sqrt() * clean) / (1 - signal).sqrt()

    def velocity(latents: torch.Tensor, step: int, _guided: bool = False) -> torch.Tensor:
        signal = schedule.signal[step]
        return signal.sqrt() * noise_in(latents, step) - (1 - signal).sqrt() * clean

    def run(predict, prediction_type: str) -> torch.Tensor:
        return denoise(
            predict,
            schedule,
            ImageNoise(generators_of([1]), (4, 8, 8), "cpu"),
            guidance=[0.0],
            prediction_type=prediction_type,
        )

    by_noise, by_velocity = run(noise_in, "epsilon"), run(velocity, "v_prediction")
    assert relative_error(by_velocity, by_noise) < 1e-4
    assert relative_error(by_velocity, clean) < 0.05  # the last signal share is 0.9999, not 1
    assert as_epsilon(clean, clean, 0.5, "epsilon") is clean
