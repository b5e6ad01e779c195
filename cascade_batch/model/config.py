"""What a network is made of: frozen configs under the field names of the published `config.json`.

One dataclass serves Stage C and Stage B (they share a trunk), one serves Stage A. The published variants
are written as differences from each other. A `config.json` is parsed strictly: an unknown key is an error,
keys that start with an underscore are notes and ignored. `up_*` fields list the deepest level first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, get_type_hints

from cascade_batch.errors import WeightsError, did_you_mean
from cascade_batch.model.config_checks import check_types
from cascade_batch.model.layouts import ATTENTION, RES, TIME

PREDICTION_TYPES = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class UNetConfig:
    """Stage C if `clip_text_in_channels` is set, Stage B if `effnet_in_channels` is."""

    in_channels: int = 16
    out_channels: int = 16
    timestep_ratio_embedding_dim: int = 64
    patch_size: int = 1
    conditioning_dim: int = 2048
    block_out_channels: tuple[int, ...] = (2048, 2048)
    num_attention_heads: tuple[int, ...] = (32, 32)
    down_num_layers_per_block: tuple[int, ...] = (8, 24)
    up_num_layers_per_block: tuple[int, ...] = (24, 8)
    down_blocks_repeat_mappers: tuple[int, ...] = (1, 1)
    up_blocks_repeat_mappers: tuple[int, ...] = (1, 1)
    block_types_per_layer: tuple[tuple[str, ...], ...] = ((RES, TIME, ATTENTION),) * 2
    clip_text_in_channels: int | None = None
    clip_text_pooled_in_channels: int = 1280
    clip_image_in_channels: int | None = None
    clip_seq: int = 4
    effnet_in_channels: int | None = None
    pixel_mapper_in_channels: int | None = None
    kernel_size: int = 3
    dropout: float | tuple[float, ...] = (0.1, 0.1)
    self_attn: bool | tuple[bool, ...] = True
    timestep_conditioning_type: tuple[str, ...] = ("sca", "crp")
    switch_level: tuple[bool, ...] | None = None
    prediction_type: str = "epsilon"

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        for name in _PER_LEVEL:
            if len(getattr(self, name)) != levels:
                raise WeightsError(
                    f"{name} does not fit the network", got=getattr(self, name), expected=f"{levels} entries"
                )
        if self.prediction_type not in PREDICTION_TYPES:
            raise WeightsError(
                "unknown prediction_type", got=self.prediction_type, expected=" or ".join(PREDICTION_TYPES)
            )

    @property
    def repeats(self) -> tuple[int, ...]:
        """How often each level down, then each level up, runs its blocks."""
        return self.down_blocks_repeat_mappers + self.up_blocks_repeat_mappers

    def per_level(self, name: str) -> tuple:
        """A field that may be one value for all levels, as one value per level."""
        value = getattr(self, name)
        return value if isinstance(value, tuple) else (value,) * len(self.block_out_channels)


_PER_LEVEL = (
    "num_attention_heads",
    "down_num_layers_per_block",
    "up_num_layers_per_block",
    "down_blocks_repeat_mappers",
    "up_blocks_repeat_mappers",
    "block_types_per_layer",
)


@dataclass(frozen=True)
class StageAConfig:
    """Stage A, the autoencoder: `levels` halvings, `scale_factor` maps Stage B's latents to its own."""

    in_channels: int = 3
    out_channels: int = 3
    up_down_scale_factor: int = 2
    levels: int = 2
    bottleneck_blocks: int = 12
    embed_dim: int = 384
    latent_channels: int = 4
    num_vq_embeddings: int = 8192
    scale_factor: float = 0.3764


@dataclass(frozen=True)
class EffnetConfig:
    """An EfficientNetV2: a stem that halves, stages of bottlenecks, a last 1x1 convolution."""

    in_channels: int = 3
    stem_channels: int = 24
    stem_padding: int = 1
    stage_channels: tuple[int, ...] = (24, 48, 64, 128, 160, 256)
    stage_layers: tuple[int, ...] = (2, 4, 4, 6, 9, 15)
    stage_strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2)
    stage_expansions: tuple[int, ...] = (1, 4, 4, 4, 6, 6)
    stage_fused: tuple[bool, ...] = (True, True, True, False, False, False)
    features: int = 1280
    latent_channels: int = 16
    """Of the encoder; as a ControlNet's trunk it has none."""


@dataclass(frozen=True)
class LargeTrunkConfig:
    """The trunk of the super-resolution ControlNet."""

    in_channels: int = 16
    wide_channels: int = 16_384
    inner_channels: int = 1024
    layers: int = 8
    features: int = 1280


@dataclass(frozen=True)
class SimpleTrunkConfig:
    """A ControlNet's trunk of two convolutions."""

    in_channels: int = 512

    @property
    def features(self) -> int:
        return self.in_channels


TrunkConfig = EffnetConfig | LargeTrunkConfig | SimpleTrunkConfig
_TRUNKS = {"effnet": EffnetConfig, "large": LargeTrunkConfig, "simple": SimpleTrunkConfig}


@dataclass(frozen=True)
class ControlNetConfig:
    """A ControlNet for Stage C: `blocks` are the residual blocks that it adds to, as they run."""

    trunk: TrunkConfig
    out_channels: int = 2048
    blocks: tuple[int, ...] = (0, 4, 8, 12, 51, 55, 59, 63)


STAGE_C = UNetConfig(
    clip_text_in_channels=1280, clip_image_in_channels=768, switch_level=(False,), kernel_size=3
)
STAGE_C_LITE = replace(
    STAGE_C,
    conditioning_dim=1536,
    block_out_channels=(1536, 1536),
    num_attention_heads=(24, 24),
    down_num_layers_per_block=(4, 12),
    up_num_layers_per_block=(12, 4),
)
STAGE_B = UNetConfig(
    in_channels=4,
    out_channels=4,
    patch_size=2,
    conditioning_dim=1280,
    block_out_channels=(320, 640, 1280, 1280),
    num_attention_heads=(0, 0, 20, 20),
    down_num_layers_per_block=(2, 6, 28, 6),
    up_num_layers_per_block=(6, 28, 6, 2),
    down_blocks_repeat_mappers=(1, 1, 1, 1),
    up_blocks_repeat_mappers=(3, 3, 2, 2),
    block_types_per_layer=((RES, TIME), (RES, TIME), (RES, TIME, ATTENTION), (RES, TIME, ATTENTION)),
    effnet_in_channels=16,
    pixel_mapper_in_channels=3,
    dropout=(0.0, 0.0, 0.1, 0.1),
    timestep_conditioning_type=("sca",),
)
STAGE_B_LITE = replace(
    STAGE_B,
    block_out_channels=(320, 576, 1152, 1152),
    num_attention_heads=(0, 9, 18, 18),
    down_num_layers_per_block=(2, 4, 14, 4),
    up_num_layers_per_block=(4, 14, 4, 2),
    up_blocks_repeat_mappers=(2, 2, 2, 2),
)
STAGE_A = StageAConfig()
EFFNET = EffnetConfig()
CANNY = ControlNetConfig(EffnetConfig(in_channels=1, stem_padding=0))
INPAINTING = ControlNetConfig(EffnetConfig(in_channels=4, stem_padding=0))
SUPER_RESOLUTION = ControlNetConfig(LargeTrunkConfig())

TINY_STAGE_C = replace(
    STAGE_C,
    timestep_ratio_embedding_dim=16,
    conditioning_dim=32,
    block_out_channels=(40, 40),
    num_attention_heads=(5, 5),
    down_num_layers_per_block=(1, 2),
    up_num_layers_per_block=(2, 1),
    clip_text_in_channels=32,
    clip_text_pooled_in_channels=32,
    clip_image_in_channels=16,
)
"""Every block type, level and skip of Stage C, in milliseconds on a CPU."""
TINY_STAGE_B = replace(
    STAGE_B,
    timestep_ratio_embedding_dim=16,
    conditioning_dim=32,
    block_out_channels=(32, 32, 40, 40),
    num_attention_heads=(0, 0, 5, 5),
    down_num_layers_per_block=(1, 1, 2, 1),
    up_num_layers_per_block=(1, 1, 1, 1),
    down_blocks_repeat_mappers=(1, 2, 1, 1),
    up_blocks_repeat_mappers=(2, 1, 2, 1),
    clip_text_pooled_in_channels=32,
)
"""Every block type, level, skip and repeat of Stage B, and a repeat on the way down besides."""
TINY_STAGE_A = replace(STAGE_A, bottleneck_blocks=2, embed_dim=24, num_vq_embeddings=16)
TINY_EFFNET = replace(
    EFFNET,
    stem_channels=8,
    stage_channels=(8, 8, 16, 16, 24, 24),
    stage_layers=(1, 2, 1, 2, 1, 2),
    features=32,
)
"""Every kind of bottleneck, in milliseconds on a CPU."""


def parse_unet(config: Mapping[str, Any], where: str = "config.json") -> UNetConfig:
    """The config of Stage C or B from a `config.json`. Raises WeightsError on an unknown key or a misfit."""
    return UNetConfig(**_known(UNetConfig, config, where))


def parse_stage_a(config: Mapping[str, Any], where: str = "config.json") -> StageAConfig:
    """The config of Stage A from a `config.json`. Raises WeightsError on an unknown key."""
    return StageAConfig(**_known(StageAConfig, config, where))


def parse_effnet(config: Mapping[str, Any], where: str = "config.json") -> EffnetConfig:
    """The config of an effnet encoder. Raises WeightsError on an unknown key."""
    return EffnetConfig(**_known(EffnetConfig, config, where))


def parse_controlnet(config: Mapping[str, Any], where: str = "config.json") -> ControlNetConfig:
    """The config of a ControlNet; `trunk` is {kind: its settings}. Raises WeightsError on an unknown key."""
    settings = dict(config)
    ((kind, trunk),) = settings.pop("trunk").items()
    return ControlNetConfig(
        trunk=_TRUNKS[kind](**_known(_TRUNKS[kind], trunk, where)),
        **_known(ControlNetConfig, settings, where),
    )


def _known(kind: type, config: Mapping[str, Any], where: str) -> dict[str, Any]:
    names = [field.name for field in fields(kind)]
    settings = {key: value for key, value in config.items() if not key.startswith("_")}
    for key in settings:
        if key not in names:
            raise WeightsError(
                f"unknown key in a network's config: {key!r}",
                where=where,
                next_step=did_you_mean(key, names, repr) or "is this a Stable Cascade part?",
            )
    check_types(settings, get_type_hints(kind), where)
    return {key: _frozen(value) for key, value in settings.items()}


def _frozen(value: Any) -> Any:
    return tuple(_frozen(entry) for entry in value) if isinstance(value, list | tuple) else value
