"""Stage B: from an embedding and the pooled text to the latents of Stage A, 4 x H/4 x W/4.

The embedding ("effnet" in the published names) is resized to the latent grid, mapped and added to the
embedded latents, once per batch. The pixel mapper is fed zeros by every published pipeline, so its output
is one constant vector per channel.
"""

from torch import Tensor, nn

from cascade_batch.engine.networks.blocks import LayerNorm, PointwiseConv, resize
from cascade_batch.engine.networks.unet import CascadeUNet, Prepared
from cascade_batch.errors import WeightsError
from cascade_batch.model.config import UNetConfig


class StageB(CascadeUNet):
    """The decoder. Parameter names are those of the published checkpoint."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        if config.effnet_in_channels is None or config.pixel_mapper_in_channels is None:
            raise WeightsError(
                "this config is not a Stage B",
                expected="effnet_in_channels and pixel_mapper_in_channels",
                next_step="Stage B belongs under `decoder/`, Stage C under `prior/`",
            )
        self.effnet_mapper = _mapper(config.effnet_in_channels, config.block_out_channels[0])
        self.pixels_mapper = _mapper(config.pixel_mapper_in_channels, config.block_out_channels[0])

    def prepare(
        self, pooled: Tensor, embeddings: Tensor, ratios: Tensor, latent_size: tuple[int, int]
    ) -> Prepared:
        """What stays constant over the steps.

        pooled: (batch, channels); embeddings: (batch, 16, h, w); ratios: (steps,) float32;
        latent_size: height and width of the latents, multiples of the patch size.
        """
        height, width = (side // self.config.patch_size for side in latent_size)
        effnet = resize(embeddings.permute(0, 2, 3, 1), height, width).to(self.dtype)
        black = effnet.new_zeros(1, 1, 1, self.config.pixel_mapper_in_channels or 0)
        image_map = self.effnet_mapper(effnet) + self.pixels_mapper(black)
        return self.prepare_blocks(self.pooled_tokens(pooled), ratios, image_map)


def _mapper(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        PointwiseConv(channels_in, channels_out * 4),
        nn.GELU(),
        PointwiseConv(channels_out * 4, channels_out),
        LayerNorm(),
    )
