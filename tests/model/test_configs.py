"""A config read off shapes is the published one, old names are read, and what shapes cannot tell is refused."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from cascade_batch.errors import WeightsError
from cascade_batch.model import config
from cascade_batch.model.config import StageAConfig, UNetConfig, parse_stage_a, parse_unet
from cascade_batch.model.layouts import config_note, infer_config, modern
from tests.model.published import CONFIGS, PUBLISHED, TEXT_CONFIG, part_of, published_shapes, small_weights


def parsed(part: str, settings: dict[str, Any]) -> UNetConfig | StageAConfig:
    return parse_stage_a(settings) if part == "stage_a" else parse_unet(settings)


def comparable(settings: UNetConfig | StageAConfig) -> UNetConfig | StageAConfig:
    """Without what no rendering uses: dropout, and the heads of levels that have no attention."""
    if isinstance(settings, StageAConfig):
        return settings
    levels = zip(settings.num_attention_heads, settings.block_types_per_layer, strict=True)
    heads = tuple(number if config.ATTENTION in kinds else 0 for number, kinds in levels)
    return replace(settings, dropout=0.0, num_attention_heads=heads)


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_tell_the_published_configs(name: str) -> None:
    part = part_of(name)
    told = parsed(part, infer_config(part, published_shapes(name), {}, "a file"))
    assert comparable(told) == comparable(getattr(config, name.upper()))


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_tell_other_sizes_too(name: str) -> None:
    part = part_of(name)
    shapes = {key: tuple(tensor.shape) for key, tensor in small_weights(name).items()}
    assert comparable(parsed(part, infer_config(part, shapes, {}, "a file"))) == comparable(CONFIGS[name])


def test_shapes_tell_the_text_tower() -> None:
    shapes = {key: tuple(tensor.shape) for key, tensor in small_weights("text_encoder").items()}
    assert infer_config("text_encoder", shapes, {}, "a file") == TEXT_CONFIG


def test_a_noted_config_goes_before_what_shapes_tell() -> None:
    note = {config_note("stage_a"): json.dumps(asdict(replace(config.STAGE_A, scale_factor=0.43)))}
    assert infer_config("stage_a", {}, note, "a file")["scale_factor"] == 0.43
    with pytest.raises(WeightsError, match="noted in the file"):
        infer_config("stage_a", {}, {config_note("stage_a"): "[1]"}, "a file")


def test_what_shapes_cannot_tell_is_refused() -> None:
    shapes = published_shapes("stage_c")
    with pytest.raises(WeightsError, match=r"clf\.1\.weight"):
        infer_config("stage_c", {k: v for k, v in shapes.items() if k != "clf.1.weight"}, {}, "a file")
    narrow = {key: tuple(2000 if side == 2048 else side for side in shape) for key, shape in shapes.items()}
    with pytest.raises(WeightsError, match="not made of heads of 64"):
        infer_config("stage_c", narrow, {}, "a file")


OLD_STAGE_B = {
    "_class_name": "StableCascadeUnet", "block_repeat": [[1, 1, 1, 1], [3, 3, 2, 2]],
    "blocks": [[2, 6, 28, 6], [6, 28, 6, 2]], "c_clip_img": None, "c_clip_seq": 4, "c_clip_text": None,
    "c_clip_text_pooled": 1280, "c_cond": 1280, "c_effnet": 16, "c_hidden": [320, 640, 1280, 1280], "c_in": 4,
    "c_out": 4, "c_pixels": 3, "c_r": 64, "dropout": [0, 0, 0.1, 0.1], "kernel_size": 3,
    "level_config": ["CT", "CT", "CTA", "CTA"], "nhead": [-1, -1, 20, 20], "patch_size": 2, "self_attn": True,
    "switch_level": None, "t_conds": ["sca"],
}  # fmt: skip


def test_configs_from_before_march_2024_are_read() -> None:
    assert parse_unet(modern(OLD_STAGE_B, "config.json")) == config.STAGE_B
    today = json.loads(json.dumps(asdict(config.STAGE_C)))
    assert modern(today, "config.json") == today
    for wrong in ({"blocks": 3}, {"level_config": ["CX"]}, {"nhead": None}):
        with pytest.raises(WeightsError, match=next(iter(wrong))):
            modern({**OLD_STAGE_B, **wrong}, "config.json")
