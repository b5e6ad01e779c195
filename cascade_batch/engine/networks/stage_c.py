"""Stage C: from text to an embedding of 16 x h x w, 24 x 24 at 1024 px.

It sees, per image, the text's token states (77 of them, or 77 a window), its pooled state as 4 tokens and 4 tokens
of an image's state; without an image that state is zeros, and the mapper's bias still speaks. A ControlNet adds its
maps to what enters some of the residual blocks.
Runs in float32 or bfloat16. float16 overflows in the last level up and renders black.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from cascade_batch.engine.networks.blocks import ResBlock
from cascade_batch.engine.networks.unet import NO_CONDITIONS, CascadeUNet, Prepared
from cascade_batch.errors import WeightsError
from cascade_batch.model.config import UNetConfig


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

    def prepare(
        self,
        text: Tensor,
        pooled: Tensor,
        ratios: Tensor,
        images: Tensor | None = None,
        *,
        injections: Mapping[int, Tensor] | None = None,
        conditions: Mapping[str, float] = NO_CONDITIONS,
    ) -> Prepared:
        """What stays constant over the steps.

        text: (batch, tokens, channels) token states; pooled: (batch, channels); ratios: (steps,) float32;
        images: (batch, images, channels) image states, none means one of zeros; conditions: "sca" and "crp";
        injections: index of a residual block, in the order in which they run -> (batch, h, w, channels), what to add
        to its input. Maps of half the batch serve both halves of a guided one. Maps of another size than the latents'
        are resized, at every step. Raises WeightsError for maps that are not for a network of this size.
        """
        if images is None:
            images = text.new_zeros(text.shape[0], 1, self.clip_img_mapper.in_features)
        image_tokens = self.clip_img_mapper(images.to(self.dtype)).unflatten(-1, (self.config.clip_seq, -1))
        tokens = [
            self.clip_txt_mapper(text.to(self.dtype)),
            self.pooled_tokens(pooled),
            image_tokens.flatten(1, 2),
        ]
        prepared = self.prepare_blocks(torch.cat(tokens, dim=1), ratios, conditions=conditions)
        if not injections:
            return prepared
        return replace(prepared, injections=self._placed(injections, text.shape[0]))

    def _placed(self, injections: Mapping[int, Tensor], batch: int) -> dict[nn.Module, Tensor]:
        """The maps by the block that they enter, for the whole batch, in the network's dtype."""
        blocks = self._residual_blocks()
        for channels in {added.shape[-1] for added in injections.values()}:
            self.check_controls(injections.keys(), channels)
        return {
            blocks[index]: added.to(self.dtype).repeat(batch // added.shape[0], 1, 1, 1)
            for index, added in injections.items()
        }

    def _residual_blocks(self) -> list[ResBlock]:
        return [block for block in self.modules() if isinstance(block, ResBlock)]

    def check_controls(self, indexes: Collection[int], channels: int) -> None:
        """Raise WeightsError unless maps of so many channels fit the residual blocks of these indexes."""
        blocks = self._residual_blocks()
        if max(indexes) >= len(blocks):
            raise WeightsError(
                f"this ControlNet is for a Stage C of at least {max(indexes) + 1} residual blocks",
                got=f"a Stage C of {len(blocks)}",
                next_step="the published ControlNets belong to the full Stage C",
            )
        if any(repeats > 1 for repeats in self.config.repeats):
            raise WeightsError("a Stage C that repeats its blocks takes no ControlNet")
        for index in indexes:
            if (width := blocks[index].depthwise.out_channels) != channels:
                raise WeightsError(
                    f"this ControlNet is for a Stage C of {channels} channels",
                    got=f"{width} at residual block {index}",
                )
