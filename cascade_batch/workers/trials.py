"""Images of nothing in particular: what batches are measured with, and what shows that a device still renders."""

from cascade_batch.model.stages import PerPool
from cascade_batch.run.schemas import ImageRequest
from cascade_batch.workers.batching import Batch

PROMPT = "a photograph of a lighthouse on a cliff above the sea at dusk"
GUIDED, UNGUIDED = 4.0, 0.0
"""Guidance scales."""


def trial_request(
    height: int, width: int, *, steps: PerPool[int], guided: PerPool[bool], number: int = 0
) -> ImageRequest:
    """An image from text alone, `number` apart from others."""
    scales = guided.map(lambda is_guided: GUIDED if is_guided else UNGUIDED)
    return ImageRequest(
        image_id=str(number),
        prompt_id=str(number),
        image_index=0,
        row=number,
        prompt=PROMPT,
        negative_prompt="",
        seed=number,
        width=width,
        height=height,
        prior_steps=steps.c,
        prior_guidance_scale=scales.c,
        decoder_steps=steps.ba,
        decoder_guidance_scale=scales.ba,
        conditions=None,
    )


def trials_of(batch: Batch) -> list[ImageRequest]:
    """An image for every place of a batch."""
    steps, guided = PerPool(batch.steps, batch.steps), PerPool(batch.guided, batch.guided)
    return [trial_request(batch.height, batch.width, steps=steps, guided=guided)] * len(batch.rows)
