"""torchvision's word on the EfficientNet: `python -m tests.engine.torchvision_effnet` writes it down.

Names and shapes go to `keys/effnet_encoder.json`, and what its networks make of seeded weights and pictures to
`keys/effnet_outputs.json`. torchvision is needed to write, not to test, because its wheels import only beside the
build of torch that they were compiled for.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from cascade_batch.model.config import EFFNET, TINY_EFFNET, EffnetConfig
from tests.engine.make_keys import KEYS, compact, shapes_of

OUTPUTS = KEYS / "effnet_outputs.json"
STEMS = (1, 4)
"""Input channels of the ControlNets that the original release built on this network."""


def seeded(shapes: Mapping[str, list[int] | tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Weights that keep activations near 1 and leave no statistic and no parameter at its default."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, shape in sorted(shapes.items()):
        values = torch.randn(tuple(shape), generator=generator)
        if name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(12345)
        elif len(shape) > 1:
            tensors[name] = values * values[0].numel() ** -0.5
        elif name.endswith(("running_var", ".1.weight")):
            tensors[name] = 0.5 + values.sigmoid()
        else:
            tensors[name] = 0.2 * values
    return tensors


def picture(channels: int, height: int, width: int) -> Tensor:
    """(2, channels, height, width) in 0..1."""
    return torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(7))


def main() -> None:
    encoder = _theirs(EFFNET)
    table = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in compact(shapes_of(encoder)).items()]
    (KEYS / "effnet_encoder.json").write_text("{\n" + ",\n".join(table) + "\n}\n")
    outputs = {"encoder": _output(encoder, _normalized(picture(3, 64, 96)))}
    for channels in STEMS:
        trunk = _theirs(TINY_EFFNET).backbone
        trunk[0][0] = nn.Conv2d(channels, TINY_EFFNET.stem_channels, kernel_size=3, stride=2, bias=False)
        outputs[f"trunk {channels}"] = _output(trunk, picture(channels, 96, 70))
    lines = [f"{json.dumps(name)}: {json.dumps(values)}" for name, values in outputs.items()]
    OUTPUTS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _theirs(config: EffnetConfig) -> nn.Sequential:
    """Their network for a config, and behind it the convolution and normalization of the original release."""
    from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig

    widths = (config.stem_channels, *config.stage_channels)
    settings = [
        (FusedMBConvConfig if config.stage_fused[n] else MBConvConfig)(
            config.stage_expansions[n],
            3,
            config.stage_strides[n],
            widths[n],
            widths[n + 1],
            config.stage_layers[n],
        )
        for n in range(len(config.stage_channels))
    ]
    norm = partial(nn.BatchNorm2d, eps=1e-3)
    features = EfficientNet(settings, 0.0, norm_layer=norm, last_channel=config.features).features
    mapper = nn.Sequential(
        nn.Conv2d(config.features, config.latent_channels, 1, bias=False),
        nn.BatchNorm2d(config.latent_channels, affine=False),
    )
    return nn.Sequential(OrderedDict(backbone=features, mapper=mapper))


def _normalized(pixels: Tensor) -> Tensor:
    from torchvision.transforms.functional import normalize

    return normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@torch.inference_mode()
def _output(network: nn.Module, pixels: Tensor) -> list:
    network.load_state_dict(seeded(shapes_of(network)))
    values = network.eval()(pixels)
    rounded = [float(f"{value:.7g}") for value in values.flatten().tolist()]
    return torch.tensor(rounded, dtype=torch.float64).view_as(values).tolist()


if __name__ == "__main__":
    main()
