"""The official files as they lie, whichever of them a person keeps: with a variant, without, in folders, in files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from cascade_batch.api import Cascade
from cascade_batch.engine.loading.conversion import write_original
from cascade_batch.errors import WeightsError
from cascade_batch.settings import ModelSpec
from cascade_batch.weights import Model, find, locate
from cascade_batch.weights.local import load_parts
from cascade_batch.weights.variants import variant_of
from tests.storage.hub import Hub
from tests.weights.official import TINY, in_bf16, write_decoder_repository, write_prior_repository

UNET = "diffusion_pytorch_model"


@pytest.fixture
def official(tmp_path: Path) -> ModelSpec:
    decoder = write_decoder_repository(tmp_path / "stable-cascade")
    prior = write_prior_repository(tmp_path / "stable-cascade-prior")
    return ModelSpec(name=str(decoder), stage_c=str(prior), image_encoder=str(prior))


@pytest.mark.parametrize("variant", [None, "bf16"])
def test_both_repositories_open_with_and_without_the_variant(
    official: ModelSpec, variant: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    parts = locate(replace(official, variant=variant), ["image_encoder"])
    assert {name: part.files for name, part in parts.items()} == {
        "stage_c": (f"{UNET}.bf16.safetensors",),
        "stage_b": (f"{UNET}.bf16.safetensors",),
        "stage_a": (f"{UNET}.safetensors",),
        "text_encoder": ("model.safetensors",),
        "tokenizer": (),
        "image_encoder": ("model.safetensors",),
    }
    assert ("vqgan has no variant bf16: plain weights taken" in caplog.text) == (variant is not None)
    model: Any = Cascade.load(
        official.name, stage_c=official.stage_c, variant=variant, device="cpu", dtype="float32"
    )
    size: dict[str, Any] = {
        "height": 256,
        "width": 256,
        "prior_num_inference_steps": 1,
        "num_inference_steps": 1,
    }
    assert model.render("a cat", seed=1, **size).images[0].size == (256, 256)


def test_plain_weights_go_first_and_a_variant_nobody_has_is_refused(official: ModelSpec) -> None:
    decoder = Path(official.name) / "decoder"
    shutil.copyfile(TINY / "decoder" / f"{UNET}.safetensors", decoder / f"{UNET}.safetensors")
    assert locate(official)["stage_b"].files == (f"{UNET}.safetensors",)
    assert locate(replace(official, variant="bf16"))["stage_b"].files == (f"{UNET}.bf16.safetensors",)
    with pytest.raises(WeightsError, match="no part of the model has the variant bf61"):
        locate(replace(official, variant="bf61"))


@pytest.mark.parametrize("variant", [None, "bf61"])
def test_several_variants_and_no_plain_weights_want_a_choice(
    official: ModelSpec, variant: str | None
) -> None:
    decoder = Path(official.name) / "decoder"
    shutil.copyfile(decoder / f"{UNET}.bf16.safetensors", decoder / f"{UNET}.fp16.safetensors")
    with pytest.raises(WeightsError, match="stage_b is there in several variants") as refused:
        locate(replace(official, variant=variant))
    assert "bf16, fp16" in str(refused.value)
    assert locate(replace(official, variant="fp16"))["stage_b"].files == (f"{UNET}.fp16.safetensors",)


@pytest.mark.parametrize(
    ("index", "shard"),
    [
        (f"{UNET}.safetensors.index.bf16.json", f"{UNET}-0000{{}}-of-00002.bf16.safetensors"),
        (f"{UNET}.safetensors.index.bf16.json", f"{UNET}.bf16-0000{{}}-of-00002.safetensors"),
        (f"{UNET}.bf16.safetensors.index.json", f"{UNET}.bf16-0000{{}}-of-00002.safetensors"),
        (f"{UNET}.safetensors.bf16.index.json", f"{UNET}-0000{{}}-of-00002.bf16.safetensors"),
        (f"{UNET}.safetensors.index.json", f"{UNET}-0000{{}}-of-00002.safetensors"),
    ],
)
@pytest.mark.parametrize("variant", [None, "bf16"])
def test_sharded_variants(official: ModelSpec, index: str, shard: str, variant: str | None) -> None:
    folder = Path(official.name) / "decoder"
    tensors = list(load_file(folder / f"{UNET}.bf16.safetensors").items())
    (folder / f"{UNET}.bf16.safetensors").unlink()
    halves = {shard.format(1): dict(tensors[:50]), shard.format(2): dict(tensors[50:])}
    for name, half in halves.items():
        save_file(half, folder / name)
    places = {key: name for name, half in halves.items() for key in half}
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    part = locate(replace(official, variant=variant if "bf16" in index else None))["stage_b"]
    assert part.files == tuple(sorted(halves))
    assert index in part.extras


@pytest.mark.parametrize(
    ("file", "variant"),
    [
        ("model.safetensors", ""),
        ("model.bf16.safetensors", "bf16"),
        ("model.non_ema.safetensors", "non_ema"),
        ("model.safetensors.index.json", ""),
        ("model.safetensors.index.fp16.json", "fp16"),
        ("model.fp16-00001-of-00002.safetensors", None),
        ("model-00001-of-00002.safetensors", None),
        ("model.bin", None),
        ("model.json", None),
        ("models.safetensors", None),
    ],
)
def test_the_names_of_variants(file: str, variant: str | None) -> None:
    assert variant_of(file, "model") == variant


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """The files at the root of the official repository, bfloat16 but for Stage A, full and lite."""
    root, spec = tmp_path / "release", ModelSpec(name="tiny")
    root.mkdir()
    for part, files in load_parts(Model.locate(spec), ("stage_c", "stage_b", "stage_a")).items():
        write_original(part, files, root / f"{part}.safetensors")
        if part != "stage_a":
            in_bf16(root / f"{part}.safetensors", root / f"{part}_bf16.safetensors")
            (root / f"{part}.safetensors").rename(root / f"{part}_lite_bf16.safetensors")
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(TINY / part, root / part)
    return root


@pytest.mark.parametrize("variant", [None, "bf16"])
def test_files_at_the_root_full_before_lite(release: Path, variant: str | None) -> None:
    parts = locate(ModelSpec(name=str(release), variant=variant))
    assert parts["stage_c"].files == ("stage_c_bf16.safetensors",)
    assert parts["stage_b"].files == ("stage_b_bf16.safetensors",)
    assert parts["stage_a"].files == ("stage_a.safetensors",)
    lite = locate(ModelSpec(name=str(release), variant=variant, stage_c="stage_c_lite_bf16.safetensors"))
    assert lite["stage_c"].files == ("stage_c_lite_bf16.safetensors",)


def test_the_two_files_of_comfyui_share_a_text_encoder(release: Path) -> None:
    folder, text = release / "comfyui_checkpoints", load_file(TINY / "text_encoder" / "model.safetensors")
    folder.mkdir()
    towers = {f"text_encoder.clip_g.transformer.{key}": tensor for key, tensor in text.items()}
    for part in ("stage_c", "stage_b"):
        network = load_file(release / f"{part}_bf16.safetensors")
        tensors = towers | {f"model.diffusion_model.{key}": tensor for key, tensor in network.items()}
        if part == "stage_b":
            tensors |= {f"vae.{key}": t for key, t in load_file(release / "stage_a.safetensors").items()}
        save_file(tensors, folder / f"stable_cascade_{part}.safetensors")
    parts = locate(ModelSpec(name=str(folder), tokenizer=str(release)))
    assert parts["text_encoder"].files == parts["stage_c"].files == ("stable_cascade_stage_c.safetensors",)
    assert parts["stage_a"].files == parts["stage_b"].files == ("stable_cascade_stage_b.safetensors",)


def test_a_saved_combined_pipeline(official: ModelSpec) -> None:
    root, prior = Path(official.name), Path(str(official.stage_c))
    shutil.move(prior / "prior", root / "prior_prior")
    shutil.move(prior / "image_encoder", root / "prior_image_encoder")
    parts = locate(ModelSpec(name=str(root)), ["image_encoder"])
    assert parts["stage_c"].uri == str(root / "prior_prior")
    assert parts["image_encoder"].uri == str(root / "prior_image_encoder")


def test_the_same_on_the_hub(official: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    names = {"them/stable-cascade": official.name, "them/stable-cascade-prior": str(official.stage_c)}
    for name, folder in names.items():
        files = {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}
        hub.repositories[name] = {"main": files}
    try:
        for variant in (None, "bf16"):
            spec = ModelSpec(name="them/stable-cascade", stage_c="them/stable-cascade-prior", variant=variant)
            parts = locate(spec)
            assert parts["stage_c"].files == (f"{UNET}.bf16.safetensors",)
            assert parts["stage_a"].files == (f"{UNET}.safetensors",)
        assert find("stage_c", None, "hf://them/stable-cascade", None) is None
    finally:
        hub.close()
