"""ControlNets have the published sizes, compute what a plain reading of them does, and enter Stage C where they should.

The references work on NCHW maps with torch's functions: the trunks and projections are written out from the stored
names, and what is added to Stage C goes through hooks on diffusers' network.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_stable_cascade import SDCascadeResBlock
from safetensors.torch import save_file
from torch import Tensor, nn

from cascade_batch.engine.loading.checkpoints import load_controlnet
from cascade_batch.engine.networks.blocks import resize
from cascade_batch.engine.networks.controlnet import ControlNet
from cascade_batch.engine.networks.effnet import EffnetEncoder
from cascade_batch.engine.networks.stage_c import StageC
from cascade_batch.errors import WeightsError
from cascade_batch.model.config import (
    CANNY,
    INPAINTING,
    SUPER_RESOLUTION,
    TINY_EFFNET,
    TINY_STAGE_C,
    ControlNetConfig,
    LargeTrunkConfig,
    SimpleTrunkConfig,
    UNetConfig,
    parse_controlnet,
)
from cascade_batch.model.config import EFFNET as FULL_EFFNET
from cascade_batch.model.layouts import infer_config, recognise
from cascade_batch.weights.inspection import PUBLISHED as PUBLISHED_SIZES
from tests.engine.make_keys import shapes_of
from tests.engine.oracle import pair_c, relative_error
from tests.engine.test_effnet import published as effnet_shapes
from tests.engine.test_effnet import their_output
from tests.engine.test_networks import RATIO, TOLERANCE, noise
from tests.engine.torchvision_effnet import picture, seeded

Tensors = dict[str, Tensor]

FACE = ControlNetConfig(SimpleTrunkConfig(512), blocks=tuple(range(64)))
PUBLISHED = [
    (CANNY, 54_255_776),
    (INPAINTING, 54_256_424),
    (SUPER_RESOLUTION, 203_491_584),
    (FACE, 102_763_008),
]
WIDTH = TINY_STAGE_C.block_out_channels[0]
LARGE = ControlNetConfig(LargeTrunkConfig(16, 24, 12, layers=2, features=20), WIDTH)
SIMPLE = ControlNetConfig(SimpleTrunkConfig(6), WIDTH)
EFFNET = ControlNetConfig(replace(TINY_EFFNET, in_channels=4, stem_padding=0), WIDTH)
SMALL = (LARGE, SIMPLE, EFFNET)
DEEP = replace(TINY_STAGE_C, down_num_layers_per_block=(8, 24), up_num_layers_per_block=(24, 8))
"""As many blocks as the full Stage C, so that the published ControlNets' indexes have their places."""


def controlnet(config: ControlNetConfig) -> ControlNet:
    network = ControlNet(config).eval().requires_grad_(False)
    network.load_state_dict(weights_of(network))
    return network


def weights_of(network: ControlNet) -> Tensors:
    """Of the trunk, those of torchvision's noted outputs."""
    trunk = seeded(shapes_of(network.backbone))
    projections = seeded(shapes_of(network.projections), seed=1)
    return {
        **{f"backbone.{name}": tensor for name, tensor in trunk.items()},
        **{f"projections.{name}": tensor for name, tensor in projections.items()},
    }


@pytest.mark.parametrize(("config", "parameters"), PUBLISHED)
def test_the_published_counts_and_what_shapes_tell(config: ControlNetConfig, parameters: int) -> None:
    with torch.device("meta"):
        network = ControlNet(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    shapes = {name: tuple(shape) for name, shape in shapes_of(network).items()}
    (found,) = recognise(shapes, "a file")
    assert found.part == "controlnet"
    assert parse_controlnet(infer_config("controlnet", found.shapes, {}, "a file")) == config


@pytest.mark.parametrize(
    ("network", "name"),
    [
        (lambda: EffnetEncoder(FULL_EFFNET), "the effnet encoder"),
        (lambda: ControlNet(CANNY), "the canny ControlNet"),
        (lambda: ControlNet(INPAINTING), "the inpainting ControlNet"),
        (lambda: ControlNet(SUPER_RESOLUTION), "the super-resolution ControlNet"),
    ],
)
def test_an_inspection_names_the_published_files(network: Callable[[], nn.Module], name: str) -> None:
    with torch.device("meta"):
        tensors = network().state_dict().values()
    assert PUBLISHED_SIZES[sum(t.numel() for t in tensors if t.is_floating_point())] == name


def test_names_are_the_published_ones() -> None:
    with torch.device("meta"):
        canny, large = shapes_of(ControlNet(CANNY)), shapes_of(ControlNet(SUPER_RESOLUTION))
    backbone = {name: shape for name, shape in effnet_shapes().items() if name.startswith("backbone.")}
    projections = {
        f"projections.{number}.{place}.weight": [channels, 1280, 1, 1]
        for number in range(8)
        for place, channels in ((0, 1280), (2, 2048))
    }
    assert canny == {**backbone, "backbone.0.0.weight": [24, 1, 3, 3], **projections}
    assert projections.items() <= large.items()
    for name, shape in {
        "backbone.0.weight": [16_384, 16, 1, 1],
        "backbone.2.bias": [1024],
        "backbone.10.blocks.0.weight": [1024],
        "backbone.10.blocks.5.weight": [1024, 1024, 3, 3],
        "backbone.11.weight": [1280, 1024, 1, 1],
    }.items():
        assert large[name] == shape


def their_features(config: ControlNetConfig, w: Tensors, control: Tensor) -> Tensor:
    """What the trunk makes of a control, NCHW."""
    if config is EFFNET:
        return their_output("trunk 4")
    is_large = config is LARGE
    x = F.conv2d(control, w["backbone.0.weight"], w["backbone.0.bias"], padding=0 if is_large else 1)
    x = F.leaky_relu(x, 0.2)
    x = F.conv2d(x, w["backbone.2.weight"], w["backbone.2.bias"], padding=0 if is_large else 1)
    if not is_large:
        return x
    for layer in ("backbone.3.blocks.", "backbone.4.blocks."):
        hidden = x
        for norm, conv in ((0, 2), (3, 5)):
            mean, variance = hidden.mean(1, keepdim=True), hidden.var(1, keepdim=True, unbiased=False)
            hidden = (hidden - mean) / (variance + 1e-5).sqrt()
            scale, shift = (w[f"{layer}{norm}.{kind}"][:, None, None] for kind in ("weight", "bias"))
            hidden = F.gelu(hidden * scale + shift)
            hidden = F.conv2d(hidden, w[f"{layer}{conv}.weight"], w[f"{layer}{conv}.bias"], padding=1)
        x = x + hidden
    return F.conv2d(x, w["backbone.5.weight"], w["backbone.5.bias"])


@pytest.mark.parametrize("config", SMALL, ids=["large", "simple", "effnet"])
def test_maps_are_those_of_a_plain_reading(config: ControlNetConfig) -> None:
    network = controlnet(config)
    control = picture(4, 96, 70) if config is EFFNET else noise(2, config.trunk.in_channels, 7, 5)
    weights = weights_of(network)
    features = their_features(config, weights, control)
    maps = network(control)
    assert list(maps) == [0, 4, 8, 12, 51, 55, 59, 63]
    for number, added in enumerate(maps.values()):
        hidden = F.leaky_relu(F.conv2d(features, weights[f"projections.{number}.0.weight"]), 0.2)
        expected = F.conv2d(hidden, weights[f"projections.{number}.2.weight"])
        assert relative_error(added.permute(0, 3, 1, 2), expected) < TOLERANCE


def add_by_hooks(network: nn.Module, maps: dict[int, Tensor]) -> None:
    """Add maps (batch, h, w, c) to what enters diffusers' residual blocks, counted as they run."""
    runs = iter(range(1000))

    def add(_: nn.Module, given: tuple) -> tuple:
        added = maps.get(next(runs))
        if added is None:
            return given
        size = given[0].shape[-2:]
        resized = F.interpolate(added.permute(0, 3, 1, 2), size, mode="bilinear", align_corners=True)
        return given[0] + resized, *given[1:]

    for module in network.modules():
        if isinstance(module, SDCascadeResBlock):
            module.register_forward_pre_hook(add)


@pytest.mark.parametrize(
    ("config", "blocks"),
    [
        (TINY_STAGE_C, (0, 2, 3, 5)),
        (replace(TINY_STAGE_C, switch_level=(True,)), (0, 1, 4, 5)),
        (DEEP, CANNY.blocks),
    ],
    ids=["published", "switched", "deep"],
)
@pytest.mark.parametrize("size", [(6, 6), (6, 9)])
def test_stage_c_adds_maps_where_diffusers_would(
    config: UNetConfig, blocks: tuple[int, ...], size: tuple[int, int]
) -> None:
    theirs, ours = pair_c(config)
    latents, text, pooled = noise(2, 16, *size), noise(2, 77, 32), noise(2, 32)
    maps = {block: 3 * noise(2, 4, 5, WIDTH, seed=block) for block in blocks}
    got = ours.step(latents, ours.prepare(text, pooled, RATIO, injections=maps), 0)
    if config.switch_level == (False,):  # every block sees maps of the latents' size
        resized = {block: resize(added, *size) for block, added in maps.items()}
        fitted = ours.prepare(text, pooled, RATIO, injections=resized)
        assert torch.equal(got, ours.step(latents, fitted, 0))
    plain = ours.step(latents, ours.prepare(text, pooled, RATIO), 0)
    add_by_hooks(theirs, maps)
    expected = theirs(latents, RATIO.expand(2), pooled[:, None], text, torch.zeros(2, 1, 16)).sample
    assert relative_error(got, expected) < TOLERANCE
    assert relative_error(got, plain) > 0.01


def test_each_block_gets_its_own_map() -> None:
    """Without this a map on the wrong block could hide behind the others."""
    _, ours = pair_c(TINY_STAGE_C)
    latents, text, pooled = noise(1, 16, 6, 6), noise(1, 77, 32), noise(1, 32)
    for block in range(6):
        maps = {block: 3 * noise(1, 6, 6, WIDTH)}
        got = ours.step(latents, ours.prepare(text, pooled, RATIO, injections=maps), 0)
        add_by_hooks(hooked := pair_c(TINY_STAGE_C)[0], maps)
        expected = hooked(latents, RATIO, pooled[:, None], text, torch.zeros(1, 1, 16)).sample
        assert relative_error(got, expected) < TOLERANCE


def test_a_guided_batch_gets_the_maps_on_both_halves_and_the_first_images_theirs() -> None:
    _, ours = pair_c(TINY_STAGE_C)
    latents, text, pooled = noise(4, 16, 6, 6), noise(4, 77, 32), noise(4, 32)
    maps = {block: 3 * noise(2, 6, 6, WIDTH, seed=block) for block in (0, 4)}
    doubled = {block: torch.cat([added, added]) for block, added in maps.items()}
    prepared = ours.prepare(text, pooled, RATIO, injections=maps)
    both = ours.step(latents, prepared, 0)
    assert torch.equal(both, ours.step(latents, ours.prepare(text, pooled, RATIO, injections=doubled), 0))
    alone = ours.prepare(text[:2], pooled[:2], RATIO, injections=maps)
    expected = ours.step(latents[:2], alone, 0)
    assert relative_error(ours.step(latents[:2], prepared.first(2), 0), expected) < TOLERANCE


def test_an_untrained_controlnet_changes_not_a_bit() -> None:
    _, ours = pair_c(DEEP)
    latents, text, pooled = noise(1, 16, 6, 6), noise(1, 77, 32), noise(1, 32)
    maps = ControlNet(LARGE)(noise(1, 16, 6, 6))
    got = ours.step(latents, ours.prepare(text, pooled, RATIO, injections=maps), 0)
    assert torch.equal(got, ours.step(latents, ours.prepare(text, pooled, RATIO), 0))


@pytest.mark.parametrize(
    ("config", "maps", "message"),
    [
        (TINY_STAGE_C, {0: WIDTH, 63: WIDTH}, "at least 64 residual blocks"),
        (TINY_STAGE_C, {0: WIDTH, 6: WIDTH}, "at least 7 residual blocks\n  got: a Stage C of 6"),
        (TINY_STAGE_C, {0: WIDTH, 4: 2048}, "a Stage C of 2048 channels"),
        (replace(TINY_STAGE_C, down_blocks_repeat_mappers=(2, 1)), {0: WIDTH}, "repeats its blocks"),
    ],
)
def test_a_stage_c_of_another_size_is_refused(config: UNetConfig, maps: dict[int, int], message: str) -> None:
    injections = {block: torch.zeros(1, 6, 6, width) for block, width in maps.items()}
    with pytest.raises(WeightsError, match=message):
        StageC(config).prepare(noise(1, 77, 32), noise(1, 32), RATIO, injections=injections)


def saved(folder: Path, tensors: Tensors) -> list[Path]:
    path = folder / "controlnet.safetensors"
    save_file(tensors, path)
    return [path]


@pytest.mark.parametrize("prefix", ["", "state_dict.", "controlnet."])
@pytest.mark.parametrize("config", SMALL, ids=["large", "simple", "effnet"])
def test_files_load_behind_any_prefix(tmp_path: Path, config: ControlNetConfig, prefix: str) -> None:
    network = controlnet(config)
    stored = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    loaded = load_controlnet(saved(tmp_path, stored), "float32", "cpu")
    assert loaded.config == config
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name
    near = load_controlnet(saved(tmp_path, stored), "bfloat16", "cpu")
    assert near(noise(1, config.trunk.in_channels, 64, 64))[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop("projections.5.2.weight"), "1 missing: projections.5.2.weight"),
        (lambda t: [t.pop(f"projections.7.{n}.weight") for n in (0, 2)], "7 are neither the published 8"),
        (lambda t: t.update({"backbone.3.blocks.2.bias": torch.zeros(3)}), r"backbone.3.blocks.2.bias \[3\]"),
        (lambda t: t.update({"backbone.9.weight": torch.zeros(3)}), "1 unexpected: backbone.9.weight"),
        (lambda t: t.pop("backbone.2.weight"), "no usable 'backbone.2.weight'"),
    ],
)
def test_a_damaged_file_is_refused_by_the_tensor(
    tmp_path: Path, damage: Callable[[Tensors], object], message: str
) -> None:
    tensors = controlnet(LARGE).state_dict()
    damage(tensors)
    with pytest.raises(WeightsError, match=message):
        load_controlnet(saved(tmp_path, tensors), "float32", "cpu")
