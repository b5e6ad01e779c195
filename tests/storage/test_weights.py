"""Finding a model's parts in all their layouts, and fetching them once per node."""

import faulthandler
import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cascade_batch.errors import StorageError, WeightsError
from cascade_batch.settings import ModelSpec
from cascade_batch.storage import Storage
from cascade_batch.weights import PARTS, SUBFOLDERS, digest, fetch, fetching, locate, read_config
from tests.patience import PATIENCE_S, wait_until

NETWORK = "diffusion_pytorch_model"


def files_of(part: str, variant: str = "") -> dict[str, bytes]:
    """What a part's folder holds; locating never looks into weights, so any bytes will do."""
    if part == "tokenizer":
        return {"vocab.json": b"{}", "merges.txt": b"", "tokenizer_config.json": b"{}"}
    stem = "model" if part == "text_encoder" else NETWORK
    suffix = f".{variant}" if variant else ""
    return {"config.json": b'{"is": "%s"}' % part.encode(), f"{stem}{suffix}.safetensors": part.encode() * 9}


def write(root: str, folders: dict[str, dict[str, bytes]]) -> None:
    storage = Storage(root)
    for folder, files in folders.items():
        for name, data in files.items():
            storage.put(f"{folder}/{name}", data)


@pytest.fixture
def model(store: str) -> ModelSpec:
    """A whole model on a local folder, then on S3, with files beside it that are not ours."""
    write(store, {SUBFOLDERS[part]: files_of(part) for part in PARTS})
    write(store, {"prior_lite": files_of("stage_c"), "image_encoder": {"model.safetensors": b"not read"}})
    return ModelSpec(name=store)


def test_locates_every_part(model: ModelSpec) -> None:
    parts = locate(model)
    assert tuple(parts) == PARTS
    assert parts["stage_a"].uri == f"{model.name}/vqgan"
    assert parts["stage_a"].files == (f"{NETWORK}.safetensors",)
    assert parts["text_encoder"].files == ("model.safetensors",)
    assert parts["tokenizer"].files == ()
    assert set(parts["tokenizer"].extras) == {"vocab.json", "merges.txt", "tokenizer_config.json"}
    assert read_config(parts["stage_b"]) == {"is": "stage_b"}


def test_fetched_files_have_one_digest_wherever_they_are(model: ModelSpec, tmp_path: Path) -> None:
    write(str(tmp_path / "copy"), {SUBFOLDERS[part]: files_of(part) for part in PARTS})
    here, there = locate(ModelSpec(name=str(tmp_path / "copy"))), locate(model)
    for part in PARTS:
        folder = fetch(there[part])
        assert {path.name for path in folder.iterdir()} == {*there[part].files, *there[part].extras}
        assert digest(there[part], folder) == digest(here[part], fetch(here[part]))
    assert len({digest(there[part], fetch(there[part])) for part in PARTS}) == len(PARTS)


def test_digest_follows_content_and_names(model: ModelSpec) -> None:
    part = locate(model)["stage_c"]
    before = digest(part, fetch(part))
    assert before == digest(part, fetch(part))
    Storage(part.uri).put(part.files[0], b"stage_C" * 9)  # as many bytes as before
    assert digest(part, fetch(part)) != before


@pytest.mark.parametrize("override", ["prior_lite", "{root}/prior_lite", "{root}/prior_lite/", "{other}"])
def test_a_part_may_come_from_elsewhere(model: ModelSpec, tmp_path: Path, override: str) -> None:
    other = str(tmp_path / "prior-repository")
    write(other, {"prior": files_of("stage_c")})
    given = override.format(root=model.name, other=other)
    expected = f"{other}/prior" if override == "{other}" else f"{model.name}/prior_lite"
    parts = locate(replace(model, stage_c=given))
    assert parts["stage_c"].uri == expected
    assert parts["stage_b"].uri == f"{model.name}/decoder"


def test_the_two_published_repositories(store: str) -> None:
    own = ("stage_b", "stage_a", "text_encoder", "tokenizer")
    write(f"{store}/decoder-repo", {SUBFOLDERS[part]: files_of(part) for part in own})
    write(f"{store}/prior-repo", {"prior": files_of("stage_c"), "text_encoder": files_of("text_encoder")})
    model = ModelSpec(name=f"{store}/decoder-repo")
    with pytest.raises(WeightsError, match=r"model\.stage_c") as failure:
        locate(model)
    assert "decoder-repo/prior" in str(failure.value), "the folder looked in"
    assert "decoder, text_encoder, tokenizer, vqgan" in str(failure.value), "what is there"
    parts = locate(replace(model, stage_c=f"{store}/prior-repo"))
    assert parts["stage_c"].uri.endswith("prior-repo/prior")
    assert parts["text_encoder"].uri.endswith("decoder-repo/text_encoder")


def test_variants(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = str(tmp_path)
    for part in PARTS:
        write(root, {SUBFOLDERS[part]: files_of(part) | files_of(part, "bf16")})
    model = ModelSpec(name=root, variant="bf16")
    assert locate(model)["stage_c"].files == (f"{NETWORK}.bf16.safetensors",)
    assert locate(model)["text_encoder"].files == ("model.bf16.safetensors",)
    (tmp_path / "text_encoder" / "model.bf16.safetensors").unlink()
    assert locate(model)["text_encoder"].files == ("model.safetensors",)
    assert "no variant bf16" in caplog.text
    with pytest.raises(WeightsError, match="no part of the model has the variant fp16"):
        locate(replace(model, variant="fp16"))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    write(str(tmp_path), {SUBFOLDERS[part]: files_of(part) for part in PARTS})
    (tmp_path / "decoder" / f"{NETWORK}.safetensors").rename(tmp_path / "decoder" / f"{NETWORK}.bin")
    with pytest.raises(WeightsError, match="only safetensors"):
        locate(ModelSpec(name=str(tmp_path)))


@pytest.mark.parametrize("variant", [None, "bf16"])
def test_sharded_weights_as_diffusers_saves_them(tmp_path: Path, variant: str | None) -> None:
    from diffusers.models.autoencoders.vq_model import VQModel

    write(str(tmp_path), {SUBFOLDERS[part]: files_of(part, variant or "") for part in PARTS})
    network = VQModel(block_out_channels=(8,), norm_num_groups=8, num_vq_embeddings=8)  # any network will do
    for path in (tmp_path / "vqgan").iterdir():
        path.unlink()
    network.save_pretrained(tmp_path / "vqgan", variant=variant, max_shard_size="4KB")
    part = locate(ModelSpec(name=str(tmp_path), variant=variant))["stage_a"]
    on_disk = {path.name for path in (tmp_path / "vqgan").iterdir()}
    assert len(part.files) > 1
    assert {*part.files, *part.extras} == on_disk
    assert set(part.files) == {name for name in on_disk if name.endswith(".safetensors")}


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b'{"weight_map": {}}', b'{"weight_map": {"a": "gone.safetensors"}}',
     b'{"weight_map": {"a": "../../x.safetensors"}}'],
)  # fmt: skip
def test_a_shard_index_that_lies_is_refused(tmp_path: Path, content: bytes) -> None:
    write(str(tmp_path), {SUBFOLDERS[part]: files_of(part) for part in PARTS})
    (tmp_path / "prior" / f"{NETWORK}.safetensors.index.json").write_bytes(content)
    with pytest.raises(WeightsError):
        locate(ModelSpec(name=str(tmp_path)))


def test_an_unknown_model_name_is_explained() -> None:
    with pytest.raises(WeightsError, match=r"model\.name") as failure:
        locate(ModelSpec(name="stable-cascade"))
    assert "owner/name on the hub" in str(failure.value)


def count_downloads(uri: str, environment: dict[str, str], meeting: str) -> tuple[int, str, str]:
    """In a process of its own: fetch Stage B as the other process does, and count its downloads."""
    faulthandler.dump_traceback_later(PATIENCE_S, exit=True)  # a pool waits for its processes without end
    os.environ.update(environment)
    real, downloaded = Storage.download, []

    def counting(self: Storage, key: str, path: Path, *progress: Callable[[int], object]) -> int:
        downloaded.append(key)
        return real(self, key, path, *progress)

    Storage.download = counting
    part = locate(ModelSpec(name=uri))["stage_b"]
    (Path(meeting) / str(os.getpid())).touch()
    wait_until(lambda: len(list(Path(meeting).iterdir())) == 2, period_s=0.001)
    folder = fetch(part)
    return len(downloaded), str(folder), digest(part, folder)


def test_a_node_downloads_once(moto_root: str, tmp_path: Path) -> None:
    write(moto_root, {SUBFOLDERS[part]: files_of(part) for part in PARTS})
    Storage(moto_root).put(f"decoder/{NETWORK}.safetensors", os.urandom(20 * 2**20))
    environment = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "XDG_"))}
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        calls = [pool.submit(count_downloads, moto_root, environment, str(tmp_path)) for _ in range(2)]
        (first, folder, sha), (second, same_folder, same_sha) = (call.result() for call in calls)
    assert sorted((first, second)) == [0, 2], "config and weights, by one of the two"
    assert (folder, sha) == (same_folder, same_sha)
    assert not list(Path(folder).parent.glob("*.partial"))


def test_a_damaged_or_unfinished_cache_is_fetched_again(
    moto_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(moto_root, {SUBFOLDERS[part]: files_of(part) for part in PARTS})
    part = locate(ModelSpec(name=moto_root))["stage_b"]
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "download", lambda self, key, path, *_: path.write_bytes(b"cut off"))
        with pytest.raises(WeightsError, match="changed while"):
            fetch(part)
    folder = fetch(part)
    sha = digest(part, folder)
    (folder / part.files[0]).write_bytes(b"cut")
    assert (fetch(part) / part.files[0]).read_bytes() == b"stage_b" * 9
    assert digest(part, fetch(part)) == sha


def test_a_second_fetch_needs_no_download_and_no_hashing(
    moto_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(moto_root, {SUBFOLDERS[part]: files_of(part) for part in PARTS})
    part = locate(ModelSpec(name=moto_root))["stage_b"]
    sha = digest(part, fetch(part))

    def never(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(Storage, "_read_once", never)
    monkeypatch.setattr(fetching, "_digest", never)
    assert digest(part, fetch(part)) == sha


def test_a_cache_that_cannot_be_written_is_explained(
    moto_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(moto_root, {SUBFOLDERS[part]: files_of(part) for part in PARTS})
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="XDG_CACHE_HOME"):
        fetch(locate(ModelSpec(name=moto_root))["stage_b"])


def test_a_missing_bucket_is_a_storage_error(moto_root: str) -> None:
    with pytest.raises(StorageError, match="bucket does not exist"):
        locate(ModelSpec(name="s3://no-such-bucket/model"))


def test_config_that_is_no_object_is_refused(tmp_path: Path) -> None:
    write(str(tmp_path), {SUBFOLDERS[part]: files_of(part) for part in PARTS})
    part = locate(ModelSpec(name=str(tmp_path)))["stage_c"]
    (tmp_path / "prior" / "config.json").write_text(json.dumps(["not", "an", "object"]))
    with pytest.raises(WeightsError, match="holds no object"):
        read_config(part)
