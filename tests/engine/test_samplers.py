"""Every way of sampling follows its formula, worked out here in float64 from the definitions, image by image."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from cascade_batch.engine.batches import DecoderBatch, PriorBatch
from cascade_batch.engine.decoder import Decoder
from cascade_batch.engine.prior import Prior
from cascade_batch.engine.sampler import ImageNoise, denoise, generators_of
from cascade_batch.engine.schedule import make_schedule, ratio_of, signal_share, time_ratios
from cascade_batch.model.sampling import METHODS, PRESETS, StageSampling
from tests.engine.oracle import model_parts

SHAPE, SEEDS, GUIDANCE = (4, 6, 6), [3, 8], [4.0, 2.0]


def conditional(x: np.ndarray) -> np.ndarray:
    return np.tanh(2 * x) + 0.3


def unconditional(x: np.ndarray) -> np.ndarray:
    return 0.5 * np.tanh(x - 1)


def predict(latents: torch.Tensor, _step: int, guided: bool) -> torch.Tensor:
    if not guided:
        return torch.from_numpy(conditional(latents.numpy()))
    first, second = latents.numpy().reshape(2, -1, *SHAPE)
    return torch.from_numpy(np.concatenate([conditional(first), unconditional(second)]))


def signal_at(time: float, shift: float) -> float:
    """The cosine schedule, its log signal-to-noise ratio moved, within the original release's limits."""
    share = math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    share = min(max(share, 0.0001), 0.9999)
    snr = math.log(share / (1 - share)) + 2 * math.log(1 / shift)
    return min(max(1 / (1 + math.exp(-snr)), 0.0001), 0.9999)


def by_definition(seed: int, guidance: float, steps: int, sampling: StageSampling) -> np.ndarray:
    """One image, step by step, from x0 and ε instead of the three weights."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> np.ndarray:
        return torch.randn((1, *SHAPE), generator=generator)[0].double().numpy()

    x, clean = draw(), np.zeros(SHAPE)
    for step in range(steps):
        time = 1 - step / steps
        a2, next2 = signal_at(time, sampling.shift), signal_at(1 - (step + 1) / steps, sampling.shift)
        epsilon = conditional(x)
        if sampling.guidance_to <= time <= sampling.guidance_from:
            end = guidance if sampling.guidance_end is None else sampling.guidance_end
            scale = guidance * time + end * (1 - time)
            mixed = unconditional(x) + scale * (epsilon - unconditional(x))
            rescaled = mixed * epsilon.std(ddof=1) / mixed.std(ddof=1)
            epsilon = sampling.guidance_rescale * rescaled + (1 - sampling.guidance_rescale) * mixed
        clean = (x - math.sqrt(1 - a2) * epsilon) / math.sqrt(a2)
        is_last = step + 1 == steps
        noise = draw() if sampling.method != "ddim" and not is_last else np.zeros(SHAPE)
        if sampling.method == "lcm":
            x = math.sqrt(next2) * clean + math.sqrt(1 - next2) * noise
        else:  # the original's DDPM is its DDIM with eta 1
            eta2 = (1 - next2) / (1 - a2) * (1 - a2 / next2) if sampling.method == "ddpm" else 0.0
            x = math.sqrt(next2) * clean + math.sqrt(1 - next2 - eta2) * epsilon + math.sqrt(eta2) * noise
    return clean if sampling.result == "clean" else x


CHANGES: list[dict] = [
    {},
    {"shift": 2.0},
    {"shift": 0.5, "ratio_of_signal": True},
    {"result": "clean"},
    {"guidance_rescale": 0.7},
    {"guidance_end": 1.0},
    {"guidance_from": 0.8, "guidance_to": 0.3},
    {"shift": 2.0, "guidance_rescale": 0.7, "result": "clean", "guidance_end": 0.0, "guidance_from": 0.9},
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: ",".join(changes) or "plain")
def test_a_run_follows_the_definition(method: str, changes: dict) -> None:
    sampling = replace(StageSampling(method=method), **changes)
    schedule = make_schedule(time_ratios(8), sampling)
    got = denoise(
        predict,
        schedule,
        ImageNoise(generators_of(SEEDS), SHAPE, "cpu"),
        guidance=GUIDANCE,
        sampling=sampling,
    ).numpy()
    for image, (seed, guidance) in enumerate(zip(SEEDS, GUIDANCE, strict=True)):
        expected = by_definition(seed, guidance, 8, sampling)
        assert np.abs(got[image] - expected).max() < 1e-3 * np.abs(expected).max()


def test_the_time_that_a_shifted_network_is_told() -> None:
    """The figures of the original release's schedule at shift 2, and what it says where the signal is clamped."""
    told = make_schedule(time_ratios(20), StageSampling(shift=2.0, ratio_of_signal=True)).ratios
    for time, ratio in {0.95: 0.975, 0.8: 0.8975, 0.5: 0.7056, 0.25: 0.444, 0.05: 0.106}.items():
        assert told[round(20 * (1 - time))].item() == pytest.approx(ratio, abs=1e-3)
    plain = make_schedule(time_ratios(20), StageSampling(ratio_of_signal=True)).ratios
    assert plain[0].item() == pytest.approx(0.9936, abs=1e-4)
    times = torch.linspace(0.02, 0.98, 49)
    torch.testing.assert_close(ratio_of(signal_share(times)), times, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", PRESETS)
def test_both_stages_render_by_every_preset(name: str) -> None:
    """Finite pictures, the same alone and among others, and no two presets alike."""
    preset, parts = PRESETS[name], model_parts()
    prior, decoder = Prior.load(parts, "float32", "cpu"), Decoder.load(parts, "float32", "cpu")

    def pictures(prompts: list[str], seeds: list[int], guidance: list[float]) -> np.ndarray:
        count = len(prompts)
        seen = prior.render(
            PriorBatch(prompts, [""] * count, seeds, 256, 256, 4, guidance, sampling=preset.c)
        )
        batch = DecoderBatch(
            seen.embeddings, seen.pooled, seen.negative_pooled, seeds, 256, 256, 3,
            [preset.decoder_guidance_scale] * count, preset.ba, preset.stage_a_scale,
        )  # fmt: skip
        return decoder.render(batch).pixels

    both = pictures(["a red cat", "a blue dog"], SEEDS, GUIDANCE)
    alone = pictures(["a blue dog"] * 2, SEEDS[1:] * 2, GUIDANCE[1:] * 2)
    assert both.std() > 10
    np.testing.assert_array_equal(both[1], alone[0])


@pytest.mark.parametrize("change", CHANGES[1:], ids=lambda changes: ",".join(changes))
def test_every_setting_reaches_the_embedding(change: dict) -> None:
    prior = Prior.load(model_parts(), "float32", "cpu")

    def embeddings(sampling: StageSampling) -> np.ndarray:
        return prior.render(
            PriorBatch(["a cat"], [""], [1], 256, 256, 5, [4.0], sampling=sampling)
        ).embeddings

    changed: Callable[..., StageSampling] = replace
    assert not np.array_equal(embeddings(StageSampling()), embeddings(changed(StageSampling(), **change)))


def test_stage_a_scales_as_told() -> None:
    decoder = Decoder.load(model_parts(), "float32", "cpu")
    prior = Prior.load(model_parts(), "float32", "cpu")
    seen = prior.render(PriorBatch(["a cat"], [""], [1], 256, 256, 2, [1.0]))

    def pixels(scale: float | None) -> np.ndarray:
        batch = DecoderBatch(
            seen.embeddings, seen.pooled, seen.negative_pooled, [1], 256, 256, 2, [0.0], stage_a_scale=scale
        )
        return decoder.render(batch).pixels

    np.testing.assert_array_equal(pixels(None), pixels(0.3764))
    assert not np.array_equal(pixels(None), pixels(0.43))
