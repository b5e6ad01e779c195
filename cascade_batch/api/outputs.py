"""What the Python API gives back, as tensors, arrays or pictures."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from cascade_batch.engine.networks.text import TextStates
from cascade_batch.errors import SpecError
from cascade_batch.settings.values import shown

PRIOR_TYPES = ("pt", "np")
IMAGE_TYPES = ("pil", "np", "pt", "latent")


class Output(Mapping[str, Any]):
    """Read by attribute, by name or by number, as the published pipelines' outputs; what is None has no entry."""

    def to_tuple(self) -> tuple:
        """What is there, in order."""
        return tuple(self._entries().values())

    def as_tuple(self) -> tuple:
        """All of it, in order, None where it is not there: what `return_dict=False` gives."""
        return tuple(vars(self).values())

    def __getitem__(self, key: Any) -> Any:
        return self._entries()[key] if isinstance(key, str) else self.to_tuple()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value)

    def __contains__(self, key: object) -> bool:
        return key in self._entries()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries())

    def __len__(self) -> int:
        return len(self._entries())

    def _entries(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(eq=False)
class PriorOutput(Output):
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
        found = vars(self).items()
        return PriorOutput(**{name: None if v is None else v.float().cpu().numpy() for name, v in found})


def prior_output(embeddings: Tensor, texts: TextStates, images: int) -> PriorOutput:
    """Of a call's embeddings, and text states that hold those of the negative prompts behind the prompts'."""
    states, pooled = texts.states, texts.pooled[:, None]
    negative = states[images:] if len(states) > images else None
    return PriorOutput(embeddings, states[:images], pooled[:images], negative, pooled[images:])


@dataclass(eq=False)
class ImagesOutput(Output):
    """PIL pictures, an array (images, H, W, 3) or tensor (images, 3, H, W) in 0..1, or latents (images, 4, h, w)."""

    images: Any


def check_type(output_type: str, allowed: tuple[str, ...]) -> None:
    """Raise SpecError for a type that is not allowed."""
    if not isinstance(output_type, str) or output_type not in allowed:
        raise SpecError("unknown output_type", got=shown(output_type), expected=", ".join(allowed))


def as_images(pixels: Tensor, output_type: str) -> Any:
    """Pixels (images, 3, H, W), nominally 0..1, clamped: as "pt", "np" or "pil"."""
    clamped = pixels.clamp(0, 1)
    if output_type == "pt":
        return clamped
    array = clamped.permute(0, 2, 3, 1).cpu().numpy()
    if output_type == "np":
        return array
    return [Image.fromarray(one) for one in (array * 255).round().astype(np.uint8)]
