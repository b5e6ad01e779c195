"""Models by their hub id: the same parts as on disk, nothing unasked, and one clear error for what goes wrong."""

import json
import logging
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from cascade_batch.errors import CascadeError, StorageError, WeightsError
from cascade_batch.settings import LoraSpec, ModelSpec
from cascade_batch.storage import Storage, hub
from cascade_batch.weights import EMBEDDED, PARTS, Model, digest, fetch, fetch_progress, locate, locate_loras
from cascade_batch.weights.local import load_parts, local_loras
from cascade_batch.workers.fit import weight_digests
from tests.patience import PATIENCE_S
from tests.servers import free_ports
from tests.storage.hub import TOKEN, Hub

TINY = EMBEDDED / "tiny"
WEIGHTS = "prior/diffusion_pytorch_model.safetensors"
MODEL = "stabilityai/stable-cascade"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the embedded model `tiny`, without its own checksums."""
    server = Hub()
    files = {str(path.relative_to(TINY)): path.read_bytes() for path in TINY.rglob("*") if path.is_file()}
    server.repositories[MODEL] = {"main": {n: d for n, d in files.items() if not n.endswith("SHA256SUMS")}}
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    hub.snapshot.cache_clear()
    yield server
    hub.snapshot.cache_clear()
    server.close()


@pytest.fixture
def closed_port(monkeypatch: pytest.MonkeyPatch) -> str:
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    return endpoint


@pytest.mark.parametrize("name", [MODEL, f"hf://{MODEL}", f"hf://models/{MODEL}@main"])
def test_a_model_by_its_hub_id_is_the_local_one(server: Hub, name: str) -> None:
    local, remote = locate(ModelSpec(name="tiny")), locate(ModelSpec(name=name))
    assert set(remote) == set(PARTS)
    for part in PARTS:
        here, there = fetch(local[part]), fetch(remote[part])
        for file in (*remote[part].files, *remote[part].extras):
            assert (there / file).read_bytes() == (here / file).read_bytes()
    tiny, hub_tiny = Model.locate(ModelSpec(name="tiny")), Model.locate(ModelSpec(name=name))
    assert weight_digests(hub_tiny) == weight_digests(tiny)
    assert load_parts(hub_tiny, PARTS, weight_digests(tiny)).keys() == set(PARTS)


def test_one_request_lists_the_repository_and_a_second_fetch_asks_for_no_file(server: Hub) -> None:
    weight_digests(Model.locate(ModelSpec(name=MODEL)))
    others = [path for path in server.requests if not path.startswith((f"/{MODEL}/resolve/", "/lfs/"))]
    assert others == [f"/api/models/{MODEL}"]
    before = len(server.requests)
    weight_digests(Model.locate(ModelSpec(name=MODEL)))
    assert len(server.requests) == before


@pytest.mark.parametrize(
    "given", ["{}-prior", "hf://{}-prior", "hf://{}-prior/prior", "hf://{}-prior/prior@v1"]
)
def test_parts_come_from_repositories_of_their_own(server: Hub, given: str) -> None:
    files = server.repositories[MODEL]["main"]
    prior = {name: files.pop(name) for name in list(files) if name.startswith("prior/")}
    server.repositories[f"{MODEL}-prior"] = {"main": prior, "v1": prior}
    parts = locate(ModelSpec(name=MODEL, stage_c=given.format(MODEL)))
    revision = "@v1" if given.endswith("@v1") else ""
    assert parts["stage_c"].uri == f"hf://{MODEL}-prior{revision}/prior"
    assert (fetch(parts["stage_c"]) / Path(WEIGHTS).name).read_bytes() == prior[WEIGHTS]


@pytest.mark.parametrize("name", [f"{MODEL}@v1", f"hf://{MODEL}@v1"])
def test_a_revision_is_what_is_read(server: Hub, name: str) -> None:
    files = server.repositories[MODEL]["main"]
    older = files | {"prior/config.json": files["prior/config.json"] + b"\n"}
    server.repositories[MODEL]["v1"] = older
    folder = fetch(locate(ModelSpec(name=name))["stage_c"])
    assert (folder / "config.json").read_bytes() == older["prior/config.json"]
    with pytest.raises(CascadeError, match="no such revision") as failure:
        locate(ModelSpec(name=name.replace("v1", "v2")))
    assert "@v2" in str(failure.value)


def test_all_parts_are_of_the_commit_that_was_there_first(server: Hub) -> None:
    parts = locate(ModelSpec(name=MODEL))
    files = server.repositories[MODEL]["main"]
    server.repositories[MODEL] = {"main": files | {WEIGHTS: b"of a later commit"}, "earlier": files}
    assert (fetch(parts["stage_c"]) / Path(WEIGHTS).name).read_bytes() == files[WEIGHTS]


def test_a_lora_of_a_hub_repository_is_found(server: Hub) -> None:
    server.repositories["someone/lora"] = {"main": {"x.safetensors": b"no header"}}
    model = ModelSpec(name=MODEL, loras=(LoraSpec(uri="hf://someone/lora/x.safetensors"),))
    with pytest.raises(WeightsError, match=r"hf://someone/lora/x\.safetensors"):
        locate_loras(model, locate(model))


def test_a_peft_repository_brings_its_config_along(server: Hub, tmp_path: Path) -> None:
    tensors = {
        "base_model.model.clf.1.lora_A.weight": torch.ones(2, 40, 1, 1),
        "base_model.model.clf.1.lora_B.weight": torch.ones(16, 2, 1, 1),
    }
    weights, found = save(tensors), {}
    for alpha in (2, 4):
        config = json.dumps({"r": 2, "lora_alpha": alpha}).encode()
        files = {"adapter_model.safetensors": weights, "adapter_config.json": config, "README.md": b""}
        server.repositories["someone/lora"] = {"main": files}
        hub.snapshot.cache_clear()
        model = ModelSpec(name="tiny", loras=(LoraSpec(uri="someone/lora"),))
        located = Model.locate(model)
        (lora,) = local_loras(located)
        assert (lora.path.read_bytes(), lora.config) == (weights, {"r": 2, "lora_alpha": alpha})
        found[alpha] = weight_digests(located)["loras"]
    assert found[2] != found[4]


def test_damaged_weights_are_refused_by_the_hub_s_digest(server: Hub) -> None:
    part = locate(ModelSpec(name=MODEL))["stage_c"]
    server.damaged = {WEIGHTS}
    with pytest.raises(WeightsError, match="not the one that the store promises") as failure:
        fetch(part)
    assert failure.value.where == f"hf://{MODEL}/{WEIGHTS}"
    assert failure.value.got != failure.value.expected
    cache = Path(os.environ["XDG_CACHE_HOME"]) / "cascade-batch" / "weights"
    assert not [path for path in cache.iterdir() if path.is_dir()], "the partial download is removed"
    server.damaged = set()
    assert digest(part, fetch(part)) == digest(part, TINY / "prior")


def test_a_download_that_was_cut_is_repeated_and_then_refused(server: Hub) -> None:
    part = locate(ModelSpec(name=MODEL))["stage_b"]
    name = "decoder/diffusion_pytorch_model.safetensors"
    server.cut = {name: 2}
    assert digest(part, fetch(part)) == digest(part, TINY / "decoder")
    part = locate(ModelSpec(name=MODEL))["stage_c"]
    server.cut = {WEIGHTS: 1000}
    with pytest.raises(StorageError, match="kept failing") as failure:
        fetch(part)
    assert "bytes" in str(failure.value.got)


def test_an_unknown_name_is_explained_in_both_readings(server: Hub) -> None:
    with pytest.raises(WeightsError) as failure:
        locate(ModelSpec(name="nobody/nothing"))
    text = str(failure.value)
    assert "no local folder nobody/nothing" in text
    assert "no such repository on the hub" in text
    assert str(Path("nobody/nothing").absolute()) in text
    assert "hf://nobody/nothing" in text
    with pytest.raises(WeightsError, match="no local folder nobody/nothing"):
        locate(ModelSpec(name="tiny", stage_c="nobody/nothing"))


@pytest.mark.parametrize("name", ["models/nothing", "./owner/name", "owner/x.safetensors", "a/b/c", "~/name"])
def test_what_can_only_be_a_path_is_not_asked_for(server: Hub, name: str) -> None:
    with pytest.raises(WeightsError, match="no such model"):
        locate(ModelSpec(name=name))
    assert server.requests == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_is_explained_without_the_token(
    server: Hub, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    server.gated[MODEL] = status
    with pytest.raises(StorageError, match="the repository is gated") as failure:
        fetch(locate(ModelSpec(name=MODEL))["stage_c"])
    assert "HF_TOKEN" in failure.value.next_step
    assert f"Access to model {MODEL} is restricted" in str(failure.value.got)
    assert server.authorized
    assert TOKEN not in str(failure.value)


@pytest.mark.parametrize("name", [MODEL, f"hf://{MODEL}"])
def test_a_closed_port_fails_soon_in_one_error(closed_port: str, name: str) -> None:
    start = time.monotonic()
    with pytest.raises(CascadeError, match="kept failing") as failure:
        locate(ModelSpec(name=name))
    assert time.monotonic() - start < 15
    assert "HF_ENDPOINT" in failure.value.next_step
    assert f"hf://{MODEL}" in failure.value.where


def test_offline_mode_is_respected(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CascadeError, match="off limits") as failure:
        locate(ModelSpec(name=f"hf://{MODEL}"))
    assert "HF_HUB_OFFLINE" in failure.value.next_step
    assert server.requests == []


def test_a_repository_is_never_written(server: Hub) -> None:
    storage = Storage(f"hf://{MODEL}")
    for write in (lambda: storage.put("x", b""), lambda: storage.delete("x"), storage.check_writable):
        with pytest.raises(StorageError, match="never written"):
            write()


def test_local_models_touch_no_network(server: Hub, tmp_path: Path) -> None:
    """In a process of its own, where the hub's library is imported with this endpoint."""
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").symlink_to(TINY)
    code = (
        "from cascade_batch.api import Cascade\n"
        "from cascade_batch.settings import ModelSpec\n"
        "from cascade_batch.weights import Model\n"
        "from cascade_batch.workers.fit import weight_digests\n"
        f"for name in ('tiny', {str(TINY)!r}, 'owner/name'):\n"
        "    model = Cascade.load(name, device='cpu')\n"
        "    model.prior('a', height=256, width=256, num_inference_steps=1)\n"
        "    print(len(weight_digests(Model.locate(ModelSpec(name=name)))))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.stdout == "5\n" * 3, done.stderr
    assert server.requests == []


def test_a_log_gets_two_lines_a_file(server: Hub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=fetch_progress.__name__)
    fetch(locate(ModelSpec(name=MODEL))["stage_c"])
    lines = [line for line in caplog.messages if "safetensors" in line]
    assert lines[0] == f"fetching hf://{MODEL}/{WEIGHTS}, 0.7 MB"
    assert lines[1].startswith(f"fetched hf://{MODEL}/{WEIGHTS} in ")
    assert len(lines) == 2


def test_a_terminal_shows_name_bytes_and_rate(server: Hub) -> None:
    code = (
        f"import faulthandler; faulthandler.dump_traceback_later({PATIENCE_S}, exit=True)\n"
        "from cascade_batch.storage import storage\n"
        "from cascade_batch.settings import ModelSpec\n"
        "storage.DOWNLOAD_RANGE = 100_000\n"  # a rate needs two points in time
        "from cascade_batch.weights import fetch, locate\n"
        f"fetch(locate(ModelSpec(name={MODEL!r}))['stage_c'])"
    )
    environment = os.environ | {"COLUMNS": "120", "TERM": "xterm"}
    reader, terminal = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=terminal) as process:
        os.close(terminal)
        shown = b"".join(_read_all(reader)).decode()
    os.close(reader)
    assert process.returncode == 0, shown
    assert WEIGHTS in shown
    assert "705.6/705.6 kB" in shown
    assert "B/s" in shown


def _read_all(terminal: int) -> Iterator[bytes]:
    with suppress(OSError):  # how a terminal says that nobody writes to it any more
        while data := os.read(terminal, 1 << 16):
            yield data


def test_the_token_goes_to_the_hub_alone(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetch(locate(ModelSpec(name=MODEL))["stage_c"])
    assert f"/api/models/{MODEL}" in server.authorized
    assert any(path.startswith("/lfs/") for path in server.requests)
    assert not any(path.startswith("/lfs/") for path in server.authorized)
