"""Loading is strict and says which key is wrong; configs are strict and say which field is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cascade_batch.engine.loading.checkpoints import (
    load_stage_a,
    load_stage_b,
    load_stage_c,
    load_text_encoder,
    load_tokenizer,
)
from cascade_batch.errors import WeightsError
from cascade_batch.model import config
from tests.engine.oracle import TINY, model_parts, text_parts

Tensors = dict[str, torch.Tensor]


def damaged(folder: Path, part: str, damage: Callable[[Tensors], object]) -> tuple[dict, list[Path]]:
    source = model_parts()[part]
    tensors = load_file(source.files[0])
    damage(tensors)
    path = folder / "model.safetensors"
    save_file(tensors, path)
    return source.config, [path]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop("clf.1.bias"), "1 missing: clf.1.bias"),
        (lambda t: t.update({"clf.7.bias": torch.zeros(1)}), "1 unexpected: clf.7.bias"),
        (
            lambda t: t.update({"clf.1.bias": torch.zeros(3)}),
            r"1 of another shape: clf.1.bias \[3\], not \[16\]",
        ),
        (lambda t: [t.pop(name) for name in list(t)[:9]], "9 missing: .* and 4 more"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, damage: Callable[[Tensors], object], message: str) -> None:
    settings, files = damaged(tmp_path, "stage_b", damage)
    with pytest.raises(WeightsError, match=message) as caught:
        load_stage_b(settings, files, "float32", "cpu")
    assert str(files[0]) in str(caught.value)


def test_shards_are_read_together_and_a_key_in_two_is_refused(tmp_path: Path) -> None:
    part = model_parts()["stage_c"]
    tensors = list(load_file(part.files[0]).items())
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    save_file(dict(tensors[:100]), first)
    save_file(dict(tensors[100:]), second)
    net = load_stage_c(part.config, [first, second], "bfloat16", "cpu")
    for name, tensor in tensors:
        assert torch.equal(net.state_dict()[name], tensor.bfloat16())
    save_file(dict(tensors[99:]), second)
    with pytest.raises(WeightsError, match="stored twice"):
        load_stage_c(part.config, [first, second], "float32", "cpu")


def test_a_cut_file_is_a_clear_error(tmp_path: Path) -> None:
    part = model_parts()["stage_a"]
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(part.files[0].read_bytes()[:5000])
    for path, message in ((cut, "not a whole"), (tmp_path / "absent.safetensors", "cannot be read")):
        with pytest.raises(WeightsError, match=message):
            load_stage_a(part.config, [path], "float32", "cpu")


def test_stage_c_in_float16_is_refused_before_reading(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="overflow"):
        load_stage_c({}, [tmp_path / "absent.safetensors"], "float16", "cpu")


def test_stage_b_runs_in_float16() -> None:
    part = model_parts()["stage_b"]
    assert load_stage_b(part.config, part.files, "float16", "cpu").dtype == torch.float16


@pytest.mark.parametrize("load", [load_stage_c, load_stage_b])
def test_the_other_stage_is_refused(load: Callable) -> None:
    part = model_parts()["stage_b" if load is load_stage_c else "stage_c"]
    with pytest.raises(WeightsError, match="got: stage_"):
        load(part.config, part.files, "float32", "cpu")


def test_integer_buffers_keep_their_type() -> None:
    part = model_parts()["stage_a"]
    net = load_stage_a(part.config, part.files, "bfloat16", "cpu")
    kinds = {name: tensor.dtype for name, tensor in net.state_dict().items()}
    assert {name for name, dtype in kinds.items() if dtype == torch.int64} == {
        name for name in kinds if name.endswith("num_batches_tracked")
    }


def test_an_old_text_encoder_with_position_ids_loads_as_in_transformers(tmp_path: Path) -> None:
    def age(tensors: Tensors) -> None:
        tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]

    settings, files = damaged(tmp_path, "text_encoder", age)
    ours = load_text_encoder(settings, files, "float32", "cpu")
    tokenizer, theirs = text_parts()
    tokens = tokenizer(["a red cat"], padding="max_length", return_tensors="pt")
    with torch.inference_mode():
        torch.testing.assert_close(ours(**tokens).text_embeds, theirs(**tokens).text_embeds)


def test_the_tokenizer_knows_every_byte_and_says_what_it_needs(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(TINY / "tokenizer")
    tokens = tokenizer("a Red CAT, naïve 猫 🐈")["input_ids"]
    assert tokenizer.decode(tokens, skip_special_tokens=True) == "a red cat , naïve 猫 🐈"
    assert tokenizer.model_max_length == 77
    assert len(tokenizer("a red city")["input_ids"]) == 5  # start and end included
    with pytest.raises(WeightsError, match="tokenizer cannot be read"):
        load_tokenizer(tmp_path)


def test_configs_are_strict() -> None:
    published = json.loads((TINY / "prior" / "config.json").read_text())
    assert config.parse_unet(published) == config.TINY_STAGE_C
    with pytest.raises(WeightsError, match="did you mean 'patch_size'"):
        config.parse_unet({**published, "patch_sizes": 1})
    with pytest.raises(WeightsError, match="up_num_layers_per_block"):
        config.parse_unet({**published, "up_num_layers_per_block": [1]})
    with pytest.raises(WeightsError, match="prediction_type"):
        config.parse_unet({**published, "prediction_type": "sample"})
    assert (
        config.parse_unet({**published, "prediction_type": "v_prediction"}).prediction_type == "v_prediction"
    )
    with pytest.raises(WeightsError, match="did you mean 'embed_dim'"):
        config.parse_stage_a({"embed_dims": 3})
