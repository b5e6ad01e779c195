"""What the engine takes and gives: batches of images of one size and one number of steps, as numpy arrays."""

from dataclasses import dataclass, field

import numpy as np

from cascade_batch.model.sampling import StageSampling


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What Stage C is given besides texts. Arrays hold one entry per image of the batch; None is absent."""

    prompt_embeds: np.ndarray | None = None
    """(B, tokens, channels) token states instead of the prompts'; `negative_prompt_embeds` of the negative ones."""
    prompt_embeds_pooled: np.ndarray | None = None
    """(B, channels), goes with `prompt_embeds`."""
    negative_prompt_embeds: np.ndarray | None = None
    negative_prompt_embeds_pooled: np.ndarray | None = None
    images: np.ndarray | None = None
    """(B, k, size, size, 3) uint8, cut as `pictures.clip_crop` does: pictures to vary."""
    image_embeds: np.ndarray | None = None
    """(B, k, channels): pictures' CLIP embeddings, beside `images` or instead of them."""
    init_images: np.ndarray | None = None
    """(B, 32 h, 32 w, 3) uint8: what to start from, for an embedding of h x w."""
    strength: float = 1.0
    """How much noise `init_images` get, 0..1; that share of the steps is run. 0 gives their own embedding back."""
    masks: np.ndarray | None = None
    """(B, 32 h, 32 w) uint8: 255 paints anew, 0 keeps `init_images` (or what a ControlNet for inpainting is shown)."""
    control_images: np.ndarray | None = None
    """(B, 32 h, 32 w, 3) uint8: what the ControlNet follows."""
    control_strengths: np.ndarray | None = None
    """(B,) float32 factors on what the ControlNet adds; None is 1."""
    latents: np.ndarray | None = None
    """(B, 16, h, w) float32: the first noise, instead of drawing it."""
    sca: float = 0.0
    crp: float = 0.0
    """Extra conditions beside the time ratio; published pipelines leave them 0."""
    timesteps: tuple[float, ...] | None = None
    """Time ratios of the steps, from at most 1 down to 0, instead of equal ones."""


@dataclass(frozen=True)
class PriorBatch:
    """Images for Stage C: lists of one length, one size, one number of steps."""

    prompts: list[str]
    negative_prompts: list[str]
    seeds: list[int]
    height: int
    width: int
    steps: int
    guidance: list[float]
    sampling: StageSampling = field(default_factory=StageSampling)
    conditions: Conditions = field(default_factory=Conditions)


@dataclass(frozen=True)
class PriorImages:
    """Stage C's output. `embeddings` (B, 16, h, w), the pooled text states (B, channels), all float32."""

    embeddings: np.ndarray
    pooled: np.ndarray
    negative_pooled: np.ndarray
    prompt_tokens: list[int]
    prompt_truncated: list[bool]


@dataclass(frozen=True)
class DecoderBatch:
    """Images for Stage B and A: `PriorImages` arrays, one size, one number of steps."""

    embeddings: np.ndarray
    pooled: np.ndarray
    negative_pooled: np.ndarray
    seeds: list[int]
    height: int
    width: int
    steps: int
    guidance: list[float]
    sampling: StageSampling = field(default_factory=StageSampling)
    stage_a_scale: float | None = None
    stage_a_tile: int | None = None
    """Pixels of the side of a tile that Stage A decodes at a time; None: all at once."""
    latents: np.ndarray | None = None
    """(B, 4, height / 4, width / 4) float32: the first noise, instead of drawing it."""
    timesteps: tuple[float, ...] | None = None


@dataclass(frozen=True)
class DecodedImages:
    """`pixels` (B, height, width, 3) uint8. The flags tell of values lost in the conversion to uint8."""

    pixels: np.ndarray
    has_nan: list[bool]
    has_infinite: list[bool]
