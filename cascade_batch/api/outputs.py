"""What the Python API gives back, as tensors, arrays or pictures."""

from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from cascade_batch.errors import SpecError
from cascade_batch.models.text import TextStates

PRIOR_TYPES = ("pt", "np")
IMAGE_TYPES = ("pil", "np", "pt", "latent")


@dataclass(frozen=True)
class PriorOutput:
    """Embeddings (images, 16, h, w), token states (images, tokens, channels), pooled (images, 1, channels)."""

    image_embeddings: Any
    prompt_embeds: Any
    prompt_embeds_pooled: Any
    negative_prompt_embeds: Any
    negative_prompt_embeds_pooled: Any

    def as_type(self, output_type: str) -> "PriorOutput":
        """All five as tensors ("pt") or all as arrays ("np"); None stays None."""
        if output_type == "pt":
            return self
        values = vars(self).items()
        return PriorOutput(**{name: None if v is None else v.float().cpu().numpy() for name, v in values})

    def to_tuple(self) -> tuple:
        return astuple(self)


def prior_output(embeddings: Tensor, texts: TextStates, images: int) -> PriorOutput:
    """Of a call's embeddings, and text states that hold those of the negative prompts behind the prompts'."""
    states, pooled = texts.states, texts.pooled[:, None]
    negative = states[images:] if len(states) > images else None
    return PriorOutput(embeddings, states[:images], pooled[:images], negative, pooled[images:])


@dataclass(frozen=True)
class ImagesOutput:
    """PIL pictures, an array (images, H, W, 3) or tensor (images, 3, H, W) in 0..1, or latents (images, 4, h, w)."""

    images: Any


def check_type(output_type: str, allowed: tuple[str, ...]) -> None:
    """Raise SpecError for a type that is not allowed."""
    if output_type not in allowed:
        raise SpecError("unknown output_type", got=output_type, expected=", ".join(allowed))


def as_images(pixels: Tensor, output_type: str) -> Any:
    """Pixels (images, 3, H, W), nominally 0..1, clamped: as "pt", "np" or "pil"."""
    clamped = pixels.clamp(0, 1)
    if output_type == "pt":
        return clamped
    array = clamped.permute(0, 2, 3, 1).cpu().numpy()
    if output_type == "np":
        return array
    return [Image.fromarray(one) for one in (array * 255).round().astype(np.uint8)]
