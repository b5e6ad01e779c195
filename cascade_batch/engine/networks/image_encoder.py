"""The image states that Stage C can be conditioned on: a thin wrapper over the CLIP vision tower.

An image's state is the projection of the class token after the tower's last layer norm, not normalized to unit length.
"""

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:  # seconds of a start, which pool BA has no use for
    from transformers import CLIPVisionModelWithProjection

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of red, green and blue in 0..1, as in CLIP's `preprocessor_config.json`."""


class ImageEncoder:
    """The vision tower and what is done to pixels before it."""

    def __init__(self, tower: "CLIPVisionModelWithProjection") -> None:
        self._tower = tower

    @property
    def side(self) -> int:
        """Height and width of the pictures it takes; 224."""
        return cast(int, self._tower.config.image_size)

    def embed(self, pixels: Tensor) -> Tensor:
        """From pictures (N, side, side, 3) uint8 to their states (N, projection channels) float32.

        What remains of CLIP's preprocessing after its resize and crop happens here, in float32. Raises ValueError for
        pictures of another size.
        """
        scaled = pixels.to(self._tower.device).float() / 255
        normal = (scaled - scaled.new_tensor(CLIP_MEAN)) / scaled.new_tensor(CLIP_STD)
        return self._tower(normal.permute(0, 3, 1, 2).to(self._tower.dtype)).image_embeds.float()


def build_image_tower(config: dict) -> "CLIPVisionModelWithProjection":
    """The vision tower of a `config.json`, on torch's default device, with torch's fused attention."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    settings = CLIPVisionConfig.from_dict(config)
    settings._attn_implementation = "sdpa"
    return CLIPVisionModelWithProjection(settings)


def restore_positions(tower: "CLIPVisionModelWithProjection", device: str) -> None:
    """Make the buffer that no checkpoint holds, lost when a tower is built on the meta device."""
    embeddings = tower.vision_model.embeddings
    positions = torch.arange(embeddings.num_positions, device=device).expand(1, -1)
    embeddings.position_ids = nn.Buffer(positions, persistent=False)
