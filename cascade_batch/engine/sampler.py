"""The denoising loop and its noise, the same for Stage C and Stage B.

Every image of a run has a CPU generator of its own, seeded by its seed at the start of each stage and drawn from in
one order: the first latents, then once per step that adds noise. So an image's noise depends on nothing but its
seed, and equals what the published pipelines draw from a list of generators. Latents stay float32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cascade_batch.engine.schedule import DIFFUSERS, Schedule
from cascade_batch.errors import SpecError
from cascade_batch.model.sampling import StageSampling, guides

Predict = Callable[[Tensor, int, bool], Tensor]
"""(latents, step number, guided) to the network's prediction, all float32 of one shape; guided latents come doubled,
the conditional half first."""


Generators = Sequence[torch.Generator] | torch.Generator
"""One for each image, or one that draws for all of them at once, as the published pipelines take them."""
OnStep = Callable[[int, float, Tensor], Tensor]
"""(step number, its time ratio, the latents after it) to the latents to go on with."""


class ImageNoise:
    """Standard normal noise of shape (images, *shape), drawn on the generators' own devices."""

    def __init__(
        self,
        generators: Generators,
        shape: tuple[int, int, int],
        device: str,
        images: int = 0,
        ends: bool = True,
    ) -> None:
        """Unless the noise `ends` with the last step, its generators are left as the published pipelines leave them."""
        shared = isinstance(generators, torch.Generator)
        self._generators = [generators] if shared else generators
        self.ends = ends
        self._shape, self._device = (images if shared else 1, *shape), device

    def draw(self) -> Tensor:
        drawn = [
            torch.randn(self._shape, generator=generator, device=generator.device, dtype=torch.float32)
            for generator in self._generators
        ]
        return torch.cat(drawn).to(self._device)


def generators_of(seeds: Sequence[int]) -> list[torch.Generator]:
    """A CPU generator for each image."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


@dataclass(frozen=True)
class Start:
    """What a rendering starts from besides noise; all (images, *shape) float32."""

    noise: Tensor | None = None
    """Instead of the first draw."""
    clean: Tensor | None = None
    """Latents of pictures, noised to where the schedule begins."""
    repaint: Tensor | None = None
    """With `clean`: 1 where to paint anew, 0 where to keep it, (images, 1, h, w)."""


def is_guided(guidance: Sequence[float]) -> bool:
    """Whether a batch runs with classifier-free guidance; a mixed batch is a SpecError."""
    guided = {guides(scale) for scale in guidance}
    if len(guided) != 1:
        raise SpecError(
            "a batch mixes images with and without guidance",
            got=list(guidance),
            expected="guidance scales all above 1, or none",
            next_step="group images by guidance on or off",
        )
    return guided.pop()


def denoise(
    predict: Predict,
    schedule: Schedule,
    noise: ImageNoise,
    *,
    guidance: Sequence[float],
    prediction_type: str = "epsilon",
    sampling: StageSampling = DIFFUSERS,
    start: Start = Start(),
    on_step: OnStep | None = None,
) -> Tensor:
    """Latents of the finished images, float32 (images, *shape).

    With guidance `predict` gets a doubled batch, conditional first, and each image's own scale mixes the
    two predictions: uncond + scale · (cond - uncond) (Ho and Salimans 2022). What is not to be painted anew
    is put back after each step, with the first noise as far as the next step needs it (Lugmayr et al. 2022).
    """
    guided = is_guided(guidance)
    first = noise.draw() if start.noise is None else start.noise
    latents = first if start.clean is None else schedule.noised(start.clean, first, 0)
    scale = torch.tensor(guidance, dtype=torch.float32, device=latents.device).view(-1, 1, 1, 1)
    for step in range(len(schedule)):
        time = schedule.times[step].item()
        if guided and sampling.guidance_to <= time <= sampling.guidance_from:
            conditional, unconditional = predict(torch.cat([latents, latents]), step, True).chunk(2)
            predicted = torch.lerp(unconditional, conditional, _scale_at(time, scale, sampling))
            predicted = _rescaled(predicted, conditional, sampling.guidance_rescale)
        else:
            predicted = predict(latents, step, False)
        epsilon = as_epsilon(predicted, latents, schedule.signal[step].item(), prediction_type)
        is_last = step + 1 == len(schedule)
        fresh = noise.draw() if schedule.draws_noise and not (is_last and noise.ends) else None
        latents = schedule.previous(latents, epsilon, None if is_last else fresh, step)
        if start.clean is not None and start.repaint is not None:
            kept = schedule.noised(start.clean, first, step + 1)
            latents = torch.lerp(kept, latents, start.repaint)
        if on_step is not None:
            latents = on_step(step, time, latents)
    return latents


def _scale_at(time: float, scale: Tensor, sampling: StageSampling) -> Tensor:
    end = sampling.guidance_end
    return scale if end is None else scale * time + end * (1 - time)


def _rescaled(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    """Guidance widens the prediction's spread; a share of it gets the conditional one's, image by image."""
    if share == 0:
        return guided
    spread, wanted = (each.flatten(1).std(1).view(-1, 1, 1, 1) for each in (guided, conditional))
    return share * guided * (wanted / spread) + (1 - share) * guided


def as_epsilon(predicted: Tensor, latents: Tensor, signal: float, prediction_type: str) -> Tensor:
    """The noise a prediction stands for; v = √ᾱ·ε - √(1 - ᾱ)·x0 (Salimans and Ho 2022)."""
    if prediction_type == "epsilon":
        return predicted
    return signal**0.5 * predicted + (1 - signal) ** 0.5 * latents
