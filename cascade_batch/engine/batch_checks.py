"""Batches that the engine cannot render, told before it begins: every check raises SpecError."""

import numpy as np
from torch import Tensor

from cascade_batch.engine.batches import Conditions, DecoderBatch, PriorBatch
from cascade_batch.engine.sampler import Start
from cascade_batch.errors import SpecError
from cascade_batch.model.config import UNetConfig
from cascade_batch.model.geometry import embedding_side


def check_lengths(count: int, *columns: list | np.ndarray) -> None:
    lengths = [len(column) for column in columns]
    if count == 0 or any(length != count for length in lengths):
        raise SpecError("a batch needs columns of one length, at least 1", got=[count, *lengths])


def check_windows(prompts: list[int], negative_prompts: list[int]) -> None:
    """Filling an image up to a longer neighbour would change its picture."""
    windows = [max(pair) for pair in zip(prompts, negative_prompts, strict=True)]
    if len(set(windows)) > 1:
        raise SpecError(
            "images of different numbers of text windows cannot share a batch",
            got=windows,
            next_step="group them by Prior.windows",
        )


def check_shapes(batch: PriorBatch, start: Start, channels: int) -> None:
    size = (embedding_side(batch.height), embedding_side(batch.width))
    shape = (len(batch.prompts), channels, *size)
    check_shape("latents", start.noise, shape)
    check_shape("the embedding of init_image", start.clean, shape)
    check_shape("mask", start.repaint, (shape[0], 1, *size))


def check_shape(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    if tensor is not None and tuple(tensor.shape) != shape:
        raise SpecError(f"{name} of another shape", got=tuple(tensor.shape), expected=shape)


def check_decoded(batch: DecoderBatch, config: UNetConfig) -> None:
    """What Stage B is given has as many channels as it takes."""
    for name, array, channels in (
        ("image_embeddings", batch.embeddings, config.effnet_in_channels),
        ("prompt_embeds_pooled", batch.pooled, config.clip_text_pooled_in_channels),
        ("negative_prompt_embeds_pooled", batch.negative_pooled, config.clip_text_pooled_in_channels),
    ):
        if array.shape[1] != channels:
            raise SpecError(f"{name} do not fit the model", got=array.shape, expected=f"{channels} channels")


def check_conditions(config: UNetConfig, images: Tensor | None, given: Conditions) -> None:
    if images is not None and images.shape[-1] != config.clip_image_in_channels:
        raise SpecError(
            "states of pictures do not fit the model",
            where="image_embeds",
            got=f"{images.shape[-1]} channels",
            expected=config.clip_image_in_channels,
        )
    for name in ("sca", "crp"):
        if getattr(given, name) and name not in config.timestep_conditioning_type:
            raise SpecError("this Stage C has no such condition", where=name)
