"""Weights that are damaged, or of different models, end a run before its first picture, and name what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from cascade_batch.cli import main
from cascade_batch.engine.loading.stored import shapes_of
from cascade_batch.run import paths
from cascade_batch.storage import Storage
from tests.engine.torchvision_effnet import seeded
from tests.run.runs import QUICK, render, write_prompts
from tests.whole_model import control_net, write_model

UNET, CLIP = "diffusion_pytorch_model.safetensors", "model.safetensors"
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "whole")


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    for sums in folder.rglob("SHA256SUMS"):
        sums.unlink()
    return folder


def every_part(model: Path, prompts: Path, out: Path, runner: str = "local") -> int:
    settings = [f"--model={model}", *QUICK[1:]]
    return render(prompts, str(out), runner=runner, settings=settings)


def with_pictures(folder: Path) -> Path:
    """A table that needs every part a model can have."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    names = ["a.png", "a.png"]
    return write_prompts(folder, 2, image=names, init_image=names, control_image=names)


def without(key: str) -> Callable[[dict], object]:
    return lambda tensors: tensors.pop(key)


def shortened(key: str) -> Callable[[dict], object]:
    return lambda tensors: tensors.update({key: tensors[key][:-1].clone()})


def changed(file: str, change: Callable[[dict], object]) -> Damage:
    def damage(model: Path) -> None:
        tensors = load_file(model / file)
        change(tensors)
        save_file(tensors, model / file)

    return damage


def configured(part: str, **settings: object) -> Damage:
    def damage(model: Path) -> None:
        path = model / part / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return damage


def cut(file: str) -> Damage:
    return lambda model: (model / file).write_bytes((model / file).read_bytes()[:-3])


def doubled(model: Path) -> None:
    """Two shards and an index that says nothing of the key that both have."""
    folder = model / "decoder"
    tensors = list(load_file(folder / UNET).items())
    (folder / UNET).unlink()
    shards = {"a-00001-of-00002.safetensors": tensors[:60], "a-00002-of-00002.safetensors": tensors[59:]}
    for name, half in shards.items():
        save_file(dict(half), folder / name)
    index = {"weight_map": {key: name for name, half in shards.items() for key, _ in half}}
    (folder / f"{UNET}.index.json").write_text(json.dumps(index))


def without_a_shard(model: Path) -> None:
    doubled(model)
    (model / "decoder" / "a-00001-of-00002.safetensors").unlink()


def other_controlnet(model: Path) -> None:
    tensors = seeded(shapes_of(control_net(2)))
    save_file(tensors, model / "controlnet.safetensors")


def lite_controlnet(model: Path) -> None:
    tensors = load_file(model / "controlnet.safetensors")
    for number in range(8):
        key = f"projections.{number}.2.weight"
        tensors[key] = tensors[key][:-8].clone()
    save_file(tensors, model / "controlnet.safetensors")


def wider_text_encoder(model: Path) -> None:
    config = json.loads((model / "text_encoder" / "config.json").read_text())
    settings = config | {"hidden_size": 64, "projection_dim": 64}
    (model / "text_encoder" / "config.json").write_text(json.dumps(settings))
    tower = CLIPTextModelWithProjection(CLIPTextConfig.from_dict(settings))
    save_file(tower.state_dict(), model / "text_encoder" / CLIP)


def narrower_latents(model: Path) -> None:
    """A Stage A of 3 latent channels, whole in itself."""
    configured("vqgan", latent_channels=3)(model)
    tensors = load_file(model / "vqgan" / UNET)
    narrowed = {
        key: tensor.narrow(1 if key.startswith(("up_blocks", "vquantizer")) else 0, 0, 3).contiguous()
        for key, tensor in tensors.items()
        if key.startswith(("down_blocks.3.", "up_blocks.0.0.", "vquantizer.")) and 4 in tensor.shape
    }
    save_file(tensors | narrowed, model / "vqgan" / UNET)


def unlearned_tokens(model: Path) -> None:
    """A tokenizer with a token more than the text encoder has rows."""
    path = model / "tokenizer" / "tokenizer.json"
    tokens = json.loads(path.read_text())
    added = tokens["added_tokens"][-1] | {"id": 842, "content": "[mine]", "special": False}
    tokens["added_tokens"].append(added)
    path.write_text(json.dumps(tokens))


def other_end(model: Path) -> None:
    configured("text_encoder", eos_token_id=840, bos_token_id=841)(model)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "stage b without a key": (changed(f"decoder/{UNET}", without("clf.1.bias")), "1 missing: clf.1.bias"),
    "stage b of another shape": (
        changed(f"decoder/{UNET}", shortened("clf.1.bias")),
        "clf.1.bias [15], not [16]",
    ),
    "stage a without a key": (
        changed(f"vqgan/{UNET}", without("out_block.0.bias")),
        "1 missing: out_block.0.bias",
    ),
    "text encoder without a key": (
        changed(f"text_encoder/{CLIP}", without("text_model.final_layer_norm.bias")),
        "1 missing: text_model.final_layer_norm.bias",
    ),
    "image encoder without a key": (
        changed(f"image_encoder/{CLIP}", without("visual_projection.weight")),
        "1 missing: visual_projection.weight",
    ),
    "effnet without a key": (
        changed("effnet_encoder.safetensors", without("backbone.1.0.block.0.0.weight")),
        "backbone.1.0.block.0.0.weight",
    ),
    "controlnet without a key": (
        changed("controlnet.safetensors", without("projections.3.2.weight")),
        "1 missing: projections.3.2.weight",
    ),
    "controlnet of another stage c": (lite_controlnet, "for a Stage C of 32 channels"),
    "controlnet of no known kind": (other_controlnet, "2 input channels"),
    "stage b cut": (cut(f"decoder/{UNET}"), "the file ends within"),
    "stage b with a key twice": (doubled, "a key is stored twice"),
    "stage b without a shard": (without_a_shard, "a-00001-of-00002.safetensors"),
    "a wider text encoder": (wider_text_encoder, "text_encoder and stage_c are not made for each other"),
    "a stage a of fewer latents": (narrower_latents, "stage_b and stage_a are not made for each other"),
    "a tokenizer with more tokens": (unlearned_tokens, "the tokenizer is not the text encoder's"),
    "a tokenizer of another end": (other_end, "the tokenizer is not the text encoder's"),
    "a config of another network": (configured("decoder", conditioning_dim=64), "of another shape"),
    "a config of endless blocks": (
        configured("decoder", down_num_layers_per_block=[1, 1, 10**12, 1]),
        "down_num_layers_per_block",
    ),
    "a config of words": (configured("vqgan", embed_dim="24"), "embed_dim"),
    "heads that divide nothing": (configured("prior", num_attention_heads=[5, 7]), "heads do not divide"),
    "a text config of words": (configured("text_encoder", layer_norm_eps="small"), "layer_norm_eps"),
    "an activation nobody knows": (configured("text_encoder", hidden_act="jelly"), "describes no network"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_nothing_is_rendered_with_damaged_weights(
    damage: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harm, message = DAMAGES[damage]
    harm(model)
    assert every_part(model, with_pictures(tmp_path), tmp_path / "run") == 2
    assert message in capsys.readouterr().err
    assert_nothing_rendered(tmp_path / "run")


def assert_nothing_rendered(run: Path) -> None:
    storage = Storage(str(run))
    assert not [info.key for info in storage.list(paths.EMBEDDINGS)]
    assert not storage.exists(paths.WEIGHTS)
    assert not storage.exists(paths.OUTCOME)


def test_whole_weights_pass(model: Path, tmp_path: Path) -> None:
    assert every_part(model, with_pictures(tmp_path), tmp_path / "run") == 0


def test_ray_finds_damage_where_its_workers_are(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(f"decoder/{UNET}", without("clf.1.bias"))(model)
    assert every_part(model, write_prompts(tmp_path, 2), tmp_path / "run", runner="ray") == 2
    assert "1 missing: clf.1.bias" in capsys.readouterr().err
    assert not ray.is_initialized()
    assert_nothing_rendered(tmp_path / "run")


def test_inspect_names_a_key_that_two_shards_have(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doubled(model)
    assert main(["model", "inspect", str(model)]) == 2
    printed = capsys.readouterr().err
    assert "a key is stored twice" in printed
    assert "a-00002-of-00002.safetensors" in printed


def test_inspect_misses_a_shard_of_an_index(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without_a_shard(model)
    assert main(["model", "inspect", str(model)]) == 2
    assert "a-00001-of-00002.safetensors" in capsys.readouterr().err
