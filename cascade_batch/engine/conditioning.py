"""What Stage C is given besides text, from arrays to tensors: pictures to vary, to start from, and to follow."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cascade_batch.engine.batches import Conditions
from cascade_batch.engine.control_inputs import control_input
from cascade_batch.engine.loading.checkpoints import load_controlnet, load_effnet_encoder, load_image_encoder
from cascade_batch.engine.networks.controlnet import ControlNet
from cascade_batch.engine.networks.effnet import EffnetEncoder
from cascade_batch.engine.networks.image_encoder import ImageEncoder
from cascade_batch.engine.networks.stage_c import StageC
from cascade_batch.engine.sampler import Start
from cascade_batch.errors import SpecError
from cascade_batch.model.geometry import ENCODER_STRIDE
from cascade_batch.model.parts import PartFiles

Encoder = TypeVar("Encoder")


class Conditioner:
    """The encoders that a model has for it; any may be missing until a batch asks for it."""

    def __init__(
        self,
        device: str,
        image_encoder: ImageEncoder | None = None,
        effnet_encoder: EffnetEncoder | None = None,
        controlnet: ControlNet | None = None,
    ) -> None:
        self._device = device
        self._image_encoder, self._effnet, self._controlnet = image_encoder, effnet_encoder, controlnet

    @classmethod
    def load(cls, parts: Mapping[str, PartFiles], dtype: str, device: str) -> "Conditioner":
        """From those of "image_encoder", "effnet_encoder" and "controlnet" that are there. Raises WeightsError."""
        loads = {
            "image_encoder": lambda p: load_image_encoder(p.config, p.files, dtype, device),
            "effnet_encoder": lambda p: load_effnet_encoder(p.files, dtype, device),
            "controlnet": lambda p: load_controlnet(p.files, dtype, device),
        }
        return cls(device, **{name: load(parts[name]) for name, load in loads.items() if name in parts})

    def check(self, stage_c: StageC) -> None:
        """Raise WeightsError unless the ControlNet is one for this Stage C."""
        if self._controlnet is not None:
            stage_c.check_controls(self._controlnet.config.blocks, self._controlnet.config.out_channels)

    @property
    def image_size(self) -> int:
        """Side of the pictures that the image encoder takes."""
        return 224 if self._image_encoder is None else self._image_encoder.side

    def image_states(self, given: Conditions, guided: bool) -> Tensor | None:
        """(rows, pictures, channels), the unguided half zeros; None without pictures."""
        states = [] if given.image_embeds is None else [self._float(given.image_embeds)]
        if given.images is not None:
            pictures = torch.tensor(given.images, device=self._device)
            encoder = _present(self._image_encoder, "image", "image_encoder")
            states.insert(0, encoder.embed(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2]))
        if not states:
            return None
        if len({state.shape[-1] for state in states}) > 1:
            raise SpecError(
                "image_embeds do not fit the image encoder", got=[tuple(state.shape) for state in states]
            )
        joined = torch.cat(states, dim=1)
        return torch.cat([joined, torch.zeros_like(joined)]) if guided else joined

    def start(self, given: Conditions) -> Start:
        """What the rendering starts from."""
        noise = None if given.latents is None else self._float(given.latents)
        if given.init_images is None:
            return Start(noise)
        masks = self._masks(given)
        repaint = None if masks is None else F.avg_pool2d(masks, ENCODER_STRIDE)
        return Start(noise, self.embedding_of(given.init_images), repaint)

    def embedding_of(self, pictures: np.ndarray) -> Tensor:
        """Of pictures (B, 32 h, 32 w, 3) uint8, as Stage C would make it: (B, 16, h, w) float32."""
        return _present(self._effnet, "init_image", "effnet_encoder").encode(self._pixels(pictures))

    def injections(self, given: Conditions) -> dict[int, Tensor] | None:
        """Residual block -> what the ControlNet adds before it, (B, h, w, channels)."""
        if given.control_images is None:
            return None
        net = _present(self._controlnet, "control_image", "controlnet")
        pictures, masks = self._pixels(given.control_images), self._masks(given)
        maps = net(control_input(net.config, pictures, masks, self._effnet))
        if given.control_strengths is None:
            return maps
        strengths = self._float(given.control_strengths).view(-1, 1, 1, 1)
        return {block: added * strengths for block, added in maps.items()}

    def _masks(self, given: Conditions) -> Tensor | None:
        """(B, 1, 32 h, 32 w) in 0..1."""
        return None if given.masks is None else self._float(given.masks).unsqueeze(1) / 255

    def _float(self, array: np.ndarray) -> Tensor:
        return torch.tensor(array, dtype=torch.float32, device=self._device)

    def _pixels(self, pictures: np.ndarray) -> Tensor:
        """(B, H, W, 3) uint8 to (B, 3, H, W) float32 in 0..1."""
        return self._float(pictures).permute(0, 3, 1, 2) / 255


def _present(encoder: Encoder | None, column: str, part: str) -> Encoder:
    if encoder is None:
        raise SpecError(
            f"this model has no {part}",
            where=column,
            next_step=f"name one: --set model.{part}=PATH, a folder or a safetensors file",
        )
    return encoder
