"""Single files of the original release and the community as parts of a model, local and on S3, and checksums."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from cascade_batch.errors import WeightsError
from cascade_batch.settings import ModelSpec
from cascade_batch.storage import Storage
from cascade_batch.weights import PARTS, Part, digest, fetch, locate, read_config
from tests.model.published import TEXT_CONFIG, original_weights, small_weights

TOKENIZER = {"tokenizer/vocab.json": b"{}", "tokenizer/merges.txt": b""}


def original(part: str, prefix: str = "") -> bytes:
    tensors = small_weights(part)
    if part.startswith("stage"):
        tensors = original_weights(tensors, part)
    return save({prefix + key: tensor.contiguous() for key, tensor in tensors.items()})


@pytest.fixture
def release(store: str) -> ModelSpec:
    """A folder as the original release has it, with a text encoder and a tokenizer."""
    storage = Storage(store)
    for part in ("stage_c", "stage_b", "stage_a"):
        storage.put(f"{part}.safetensors", original(part))
    storage.put("stage_c_bf16.safetensors", original("stage_c"))
    storage.put("clip.safetensors", original("text_encoder"))
    for key, data in TOKENIZER.items():
        storage.put(key, data)
    return ModelSpec(name=store)


def test_a_folder_of_single_files(release: ModelSpec) -> None:
    parts = locate(release)
    assert {name: part.files for name, part in parts.items()} == {
        "stage_c": ("stage_c.safetensors",),
        "stage_b": ("stage_b.safetensors",),
        "stage_a": ("stage_a.safetensors",),
        "text_encoder": ("clip.safetensors",),
        "tokenizer": (),
    }
    assert read_config(parts["stage_c"])["block_out_channels"] == [64, 64]
    assert read_config(parts["text_encoder"]) == TEXT_CONFIG
    for name in PARTS:
        assert digest(parts[name], fetch(parts[name])) == digest(parts[name], fetch(parts[name]))


def test_a_variant_of_single_files(release: ModelSpec) -> None:
    Storage(release.name).put("stage_b_bf16.safetensors", original("stage_b"))
    Storage(release.name).put("stage_a_bf16.safetensors", original("stage_a"))
    Storage(release.name).put("clip_bf16.safetensors", original("text_encoder"))
    parts = locate(replace(release, variant="bf16"))
    assert parts["stage_c"].files == ("stage_c_bf16.safetensors",)


@pytest.mark.parametrize("given", ["stage_c_bf16.safetensors", "{root}/stage_c_bf16.safetensors"])
def test_one_file_may_be_named(release: ModelSpec, given: str) -> None:
    parts = locate(replace(release, stage_c=given.format(root=release.name)))
    assert parts["stage_c"].files == ("stage_c_bf16.safetensors",)
    assert parts["stage_b"].files == ("stage_b.safetensors",)


def test_two_files_of_one_part_want_a_choice(release: ModelSpec) -> None:
    Storage(release.name).put("mine.safetensors", original("stage_c"))
    with pytest.raises(WeightsError, match=r"more than one file holds stage_c") as refused:
        locate(release)
    assert "mine.safetensors, stage_c.safetensors" in str(refused.value)
    assert "--set model.stage_c=mine.safetensors" in str(refused.value)


def test_the_wrong_file_is_refused_by_what_it_holds(release: ModelSpec) -> None:
    with pytest.raises(WeightsError, match="no stage_c in this file") as refused:
        locate(replace(release, stage_c="stage_b.safetensors"))
    assert "got: stage_b" in str(refused.value)


def test_a_model_of_one_community_file_and_the_rest_from_elsewhere(release: ModelSpec) -> None:
    both = {**small_weights("stage_c"), **{f"vae.{k}": t for k, t in small_weights("stage_a").items()}}
    Storage(release.name).put("all.safetensors", save(both))
    rest = dict.fromkeys(("text_encoder", "tokenizer"), release.name)
    with pytest.raises(WeightsError, match="the model has no stage_b"):
        locate(ModelSpec(name=f"{release.name}/all.safetensors", tokenizer=release.name))
    parts = locate(
        ModelSpec(
            name=f"{release.name}/all.safetensors",
            stage_b=f"{release.name}/stage_b.safetensors",
            text_encoder=f"{release.name}/clip.safetensors",
            tokenizer=rest["tokenizer"],
        )
    )
    assert parts["stage_c"].files == parts["stage_a"].files == ("all.safetensors",)
    assert parts["stage_b"].files == ("stage_b.safetensors",)


def test_checksums_beside_the_weights_are_held(tmp_path: Path, moto_root: str) -> None:
    data = save({"vquantizer.codebook.weight": torch.zeros(4, 4)})
    for root in (str(tmp_path), moto_root):
        storage = Storage(root)
        storage.put("a.safetensors", data)
        storage.put("SHA256SUMS", f"{'0' * 64}  a.safetensors\n{'1' * 64}  other\n".encode())
        part = Part("stage_a", root, ("a.safetensors",), ("SHA256SUMS",))
        with pytest.raises(WeightsError, match="not what their SHA256SUMS promises") as refused:
            digest(part, fetch(part))
        assert "a.safetensors" in str(refused.value)


def test_a_checksum_does_not_change_what_weights_are(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"weights")
    plain = digest(Part("stage_a", str(tmp_path), ("a.safetensors",), ()), tmp_path)
    import hashlib

    (tmp_path / "SHA256SUMS").write_text(f"{hashlib.sha256(b'weights').hexdigest()}  a.safetensors\n")
    assert digest(Part("stage_a", str(tmp_path), ("a.safetensors",), ("SHA256SUMS",)), tmp_path) == plain
