"""Stage C: from text to an embedding of 16 x h x w, 24 x 24 at 1024 px.

It sees, per image, the text's token states (77 of them, or 77 a window), its pooled state as 4 tokens and 4
tokens of an image's state; without an image that state is zeros, and the mapper's bias still speaks.
Runs in float32 or bfloat16. float16 overflows in the last level up and renders black.
"""

import torch
from torch import Tensor, nn

from cascade_batch.errors import WeightsError
from cascade_batch.models.config import UNetConfig
from cascade_batch.models.unet import CascadeUNet, Prepared


class StageC(CascadeUNet):
    """The prior. Parameter names are those of the published checkpoint."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        if config.clip_text_in_channels is None or config.clip_image_in_channels is None:
            raise WeightsError(
                "this config is not a Stage C",
                expected="clip_text_in_channels and clip_image_in_channels",
                next_step="Stage B belongs under `decoder/`, Stage C under `prior/`",
            )
        self.clip_txt_mapper = nn.Linear(config.clip_text_in_channels, config.conditioning_dim)
        self.clip_img_mapper = nn.Linear(
            config.clip_image_in_channels, config.conditioning_dim * config.clip_seq
        )

    def prepare(self, text: Tensor, pooled: Tensor, ratios: Tensor, images: Tensor | None = None) -> Prepared:
        """What stays constant over the steps.

        text: (batch, tokens, channels) token states; pooled: (batch, channels); ratios: (steps,) float32;
        images: (batch, images, channels) image states, none means one of zeros.
        """
        if images is None:
            images = text.new_zeros(text.shape[0], 1, self.clip_img_mapper.in_features)
        image_tokens = self.clip_img_mapper(images.to(self.dtype)).unflatten(-1, (self.config.clip_seq, -1))
        tokens = [
            self.clip_txt_mapper(text.to(self.dtype)),
            self.pooled_tokens(pooled),
            image_tokens.flatten(1, 2),
        ]
        return self.prepare_blocks(torch.cat(tokens, dim=1), ratios)
