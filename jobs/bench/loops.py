"""Whole runs of both: a prior run with guidance, a decoder run, each in its own loop around its own network.

Texts are encoded before. diffusers' loops are those of its pipelines around its networks and scheduler.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from cascade_batch.engine.sampler import ImageNoise, denoise, generators_of
from cascade_batch.engine.schedule import make_schedule, time_ratios
from cascade_batch.model import flops
from cascade_batch.model.geometry import embedding_side, latent_side
from jobs.bench.peers import Peers, Station

STEPS_C, STEPS_B, GUIDANCE = 20, 10, 4.0
"""The published pipelines' defaults."""


def prior_run(peers: Peers, batch: int) -> Station:
    """Stage C from noise to embeddings."""
    ours, theirs = peers.c
    cells = embedding_side(peers.side)
    text, pooled = peers.texts(2 * batch)
    schedule = make_schedule(time_ratios(STEPS_C))

    def our_run() -> Tensor:
        prepared = ours.prepare(text, pooled, schedule.ratios.to(peers.device))
        alone = prepared.first(batch)
        noise = ImageNoise(generators_of(range(batch)), (16, cells, cells), peers.device)
        return denoise(
            lambda x, step, guided: ours.step(x, prepared if guided else alone, step),
            schedule,
            noise,
            guidance=[GUIDANCE] * batch,
        )

    runs: dict[str, Callable[[], Any]] = {"ours": our_run}
    if theirs is not None:
        runs["diffusers"] = lambda: _their_prior(peers, text, pooled, batch)
    total = flops.stage_c_flops(asdict(peers.sizes.stage_c), peers.side, peers.side, STEPS_C, True)
    return Station(f"prior run, {STEPS_C} steps", batch * total, runs)


def _their_prior(peers: Peers, text: Tensor, pooled: Tensor, batch: int) -> Tensor:
    net = peers.c[1]
    width = peers.sizes.stage_c.clip_image_in_channels or 0
    pictures = torch.zeros(2 * batch, 1, width, device=peers.device, dtype=peers.dtype)
    states, state = text.to(peers.dtype), pooled[:, None].to(peers.dtype)

    def predict(latents: Tensor, time: Tensor) -> Tensor:
        ratio = time.expand(2 * batch).to(peers.dtype)
        predicted = net(torch.cat([latents] * 2), ratio, state, states, pictures).sample
        conditional, unconditional = predicted.chunk(2)
        return torch.lerp(unconditional, conditional, GUIDANCE)

    cells = embedding_side(peers.side)
    return _their_loop(peers, (16, cells, cells), STEPS_C, batch, predict)


def decoder_run(peers: Peers, batch: int) -> Station:
    """Stage B without guidance from noise to latents, and Stage A to pixels."""
    (ours_b, theirs_b), (ours_a, theirs_a) = peers.b, peers.a
    cells, side = embedding_side(peers.side), latent_side(peers.side)
    embeddings, (_, pooled) = peers.noise(batch, 16, cells, cells), peers.texts(batch)
    schedule = make_schedule(time_ratios(STEPS_B))

    def our_run() -> list[Tensor]:
        prepared = ours_b.prepare(pooled, embeddings, schedule.ratios.to(peers.device), (side, side))
        noise = ImageNoise(generators_of(range(batch)), (4, side, side), peers.device)
        latents = denoise(
            lambda x, step, _: ours_b.step(x, prepared, step), schedule, noise, guidance=[0.0] * batch
        )
        return [ours_a.decode(latent) for latent in latents.split(1)]

    def their_run() -> Tensor:
        state, effnet = pooled[:, None].to(peers.dtype), embeddings.to(peers.dtype)

        def predict(latents: Tensor, time: Tensor) -> Tensor:
            return theirs_b(latents, time.expand(batch).to(peers.dtype), state, effnet=effnet).sample

        latents = _their_loop(peers, (4, side, side), STEPS_B, batch, predict)
        return theirs_a.decode(latents * peers.sizes.stage_a.scale_factor).sample.clamp(0, 1)

    runs: dict[str, Callable[[], Any]] = {"ours": our_run}
    if theirs_b is not None:
        runs["diffusers"] = their_run
    sizes, pixels = peers.sizes, peers.side
    total = flops.stage_b_flops(asdict(sizes.stage_b), pixels, pixels, STEPS_B, False)
    total += flops.stage_a_flops(asdict(sizes.stage_a), pixels, pixels)
    return Station(f"decoder run, {STEPS_B} steps", batch * total, runs)


def _their_loop(
    peers: Peers,
    shape: tuple[int, int, int],
    steps: int,
    batch: int,
    predict: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    from diffusers.schedulers.scheduling_ddpm_wuerstchen import DDPMWuerstchenScheduler

    scheduler: Any = DDPMWuerstchenScheduler()
    scheduler.set_timesteps(steps, device=peers.device)
    generators = generators_of(range(batch))
    latents = torch.cat([torch.randn(1, *shape, generator=each) for each in generators])
    latents = latents.to(peers.device, peers.dtype)
    for time in scheduler.timesteps[:-1]:
        ratio = time.expand(batch).to(peers.dtype)
        latents = scheduler.step(predict(latents, time), ratio, latents, generators).prev_sample
    return latents
