"""What an image may be given besides text: one table, a row for each, and the rules between them.

A new one is a row here and a field of the batch that the engine reads: the prompt table's column, its checks, the way
to the engine, the parts that a run loads and the range of its numbers all follow from the row.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from cascade_batch.errors import SpecError
from cascade_batch.model.stages import BA, C, Stage


class Kind(Enum):
    """What a cell holds. `prompts.columns` has the types of its column, `workers.row_conditions` how it is read."""

    PICTURE = auto()
    """A picture to the size that its encoder looks at, (32 h, 32 w, 3) uint8 for an embedding of h x w."""
    MASK = auto()
    """A picture of where to paint, (32 h, 32 w) uint8."""
    PICTURES = auto()
    """One picture or several, cut as CLIP looks at them, (k, size, size, 3) uint8."""
    EMBEDS = auto()
    """(k, channels) float32, or (channels) for one."""
    TOKENS = auto()
    """(tokens, channels) float32."""
    POOLED = auto()
    """(channels) float32."""
    LATENTS = auto()
    """(channels, h, w) float32 of the stage's size, or flat in that order."""
    FACTOR = auto()
    """A number that may differ within a batch, () float32."""
    REAL = auto()
    """A number that the images of a batch share."""
    TIMES = auto()
    """Time ratios that the images of a batch share."""


PICTURES = (Kind.PICTURE, Kind.MASK, Kind.PICTURES)
"""Kinds whose cells may name files beside the table."""


@dataclass(frozen=True)
class Condition:
    column: str
    kind: Kind
    stage: Stage
    """Whose batch has it."""
    field: str
    """Of `engine.batches.Conditions` for Stage C, of `DecoderBatch` for Stage B + A."""
    part: str | None = None
    """Of `model.parts.OPTIONAL`: what Stage C's workers load for it."""
    within: tuple[float, float] | None = None
    """Least and greatest value of a number."""
    neutral: float | None = None
    """The number that is the same as none."""


CONDITIONS = {
    row.column: row
    for row in (
        Condition("image", Kind.PICTURES, C, "images", part="image_encoder"),
        Condition("image_embeds", Kind.EMBEDS, C, "image_embeds"),
        Condition("prompt_embeds", Kind.TOKENS, C, "prompt_embeds"),
        Condition("prompt_embeds_pooled", Kind.POOLED, C, "prompt_embeds_pooled"),
        Condition("negative_prompt_embeds", Kind.TOKENS, C, "negative_prompt_embeds"),
        Condition("negative_prompt_embeds_pooled", Kind.POOLED, C, "negative_prompt_embeds_pooled"),
        Condition("init_image", Kind.PICTURE, C, "init_images", part="effnet_encoder"),
        Condition("strength", Kind.REAL, C, "strength", within=(0, 1)),
        Condition("mask", Kind.MASK, C, "masks"),
        Condition("control_image", Kind.PICTURE, C, "control_images", part="controlnet"),
        Condition("control_strength", Kind.FACTOR, C, "control_strengths", within=(-100, 100)),
        Condition("sca", Kind.REAL, C, "sca", within=(-1e4, 1e4), neutral=0),
        Condition("crp", Kind.REAL, C, "crp", within=(-1e4, 1e4), neutral=0),
        Condition("prior_timesteps", Kind.TIMES, C, "timesteps"),
        Condition("prior_latents", Kind.LATENTS, C, "latents"),
        Condition("decoder_timesteps", Kind.TIMES, BA, "timesteps"),
        Condition("decoder_latents", Kind.LATENTS, BA, "latents"),
    )
}
"""By column, in the order in which a run records them."""


def of_stage(stage: Stage) -> list[Condition]:
    return [condition for condition in CONDITIONS.values() if condition.stage == stage]


def check_together(given: Collection[str], timesteps: str = "prior_timesteps") -> None:
    """Raise SpecError for columns that do not go together.

    Args:
        given: names of those that are there.
        timesteps: what the caller calls `prior_timesteps`.
    """
    if "mask" in given and not {"init_image", "control_image"}.intersection(given):
        raise SpecError(
            "a mask without a picture", where="mask", expected="init_image or control_image beside it"
        )
    if {"strength", "prior_timesteps"}.issubset(given):
        raise SpecError(
            f"strength and {timesteps} both say where to begin", where="strength", expected="one of them"
        )


def settled(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a row gives, nulls left out, with the strengths of its pictures; without a picture there are none."""
    settled = dict(given)
    strength, factor = settled.pop("strength", None), settled.pop("control_strength", 1.0)
    if "init_image" in given:
        settled["strength"] = strength_of(strength, "mask" in given)
    if "control_image" in given:
        settled["control_strength"] = factor
    return settled


def strength_of(strength: float | None, masked: bool) -> float:
    """How much noise a picture to start from gets: 0.8 unless told, as in the original release, or 1 behind a mask."""
    value = (1.0 if masked else 0.8) if strength is None else float(strength)
    if not 0 <= value <= 1:
        raise SpecError("a value out of range", where="strength", got=value, expected="0 to 1")
    return value
