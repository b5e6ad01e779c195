"""Parts are looked for once a sitting, by the driver; who is handed them looks for nothing."""

import pickle
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cascade_batch.cli import main
from cascade_batch.engine.loading import matching
from cascade_batch.errors import WeightsError
from cascade_batch.settings import ModelSpec
from cascade_batch.storage import Storage
from cascade_batch.weights import EMBEDDED, Model, Part, locating, part
from tests.patience import PATIENCE_S
from tests.run.remembered import Asked, remember
from tests.run.runs import QUICK, render, write_prompts
from tests.whole_model import write_model

PARTS = ("prior", "decoder", "vqgan", "text_encoder", "tokenizer")
MOST = 24
"""Requests of a sitting for a model's files: 15 find five parts, settings and world; others read configs."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return remember(monkeypatch)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """How often each folder was asked, by the kind of request."""
    counts: Counter[tuple[str, str]] = Counter()

    def counted(kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def request(storage: Storage, *args: Any) -> Any:
            counts[kind, storage.uri] += 1
            return real(storage, *args)

        return request

    for kind in ("_list_once", "_info_once", "_read_once"):
        monkeypatch.setattr(Storage, kind, counted(kind, getattr(Storage, kind)))
    return counts


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that were looked for, as often as they were."""
    names: list[str] = []
    real = locating.find

    def find(name: str, *args: Any) -> Part | None:
        names.append(name)
        return real(name, *args)

    monkeypatch.setattr(locating, "find", find)
    return names


def test_a_sitting_asks_for_each_part_once(
    asked: Asked, requests: Counter[tuple[str, str]], tmp_path: Path
) -> None:
    model = shutil.copytree(EMBEDDED / "tiny", tmp_path / "model")
    prompts = write_prompts(tmp_path, 2)
    assert render(prompts, str(tmp_path / "run"), f"--model={model}") == 0
    of_model = {(kind, uri): count for (kind, uri), count in requests.items() if uri.startswith(str(model))}
    assert {uri: n for (kind, uri), n in of_model.items() if kind == "_list_once"} == {
        f"{model}/{name}": 1 for name in PARTS
    }
    assert sum(of_model.values()) <= MOST


@pytest.mark.parametrize("command", ["render", "plan"])
def test_parts_of_pictures_are_found_beside_the_others(
    command: str, asked: Asked, found: list[str], tmp_path: Path
) -> None:
    model = write_model(tmp_path / "model")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    prompts = write_prompts(tmp_path, 1, image=["a.png"], init_image=["a.png"], control_image=["a.png"])
    flags = [str(prompts), f"--out={tmp_path / 'run'}", f"--model={model}", *QUICK[1:]]
    assert main([command, *flags, *(["--runner=local"] if command == "render" else [])]) == 0
    assert sorted(found) == sorted(set(found)), "each of them once"
    assert len(found) == 8


def test_a_sitting_that_goes_on_checks_known_weights_no_second_time(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = write_prompts(tmp_path, 4), tmp_path / "run"
    model = shutil.copytree(EMBEDDED / "tiny", tmp_path / "model")
    assert render(prompts, str(out), f"--model={model}") == 0
    checked: list[object] = []
    real = matching.check_parts
    monkeypatch.setattr(matching, "check_parts", lambda parts: (checked.append(parts), real(parts)))
    next((out / "manifest").glob("*.parquet")).unlink()
    assert render(prompts, str(out), f"--model={model}") == 0
    assert not checked
    next((out / "manifest").glob("*.parquet")).unlink()
    (model / "vqgan" / "SHA256SUMS").unlink()
    weights = model / "vqgan" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    assert render(prompts, str(out), f"--model={model}") == 2
    assert "the file ends within" in capsys.readouterr().err
    assert len(checked) == 1


def test_known_weights_are_told_without_torch() -> None:
    program = (
        "import sys; from cascade_batch.settings import ModelSpec; from cascade_batch.weights import Model, local; "
        "from cascade_batch.workers.fit import weight_digests; model = Model.locate(ModelSpec(name='tiny')); "
        "known = local.digests(model); assert weight_digests(model, known | {'more': ''}) == known; "
        "sys.exit('torch' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert ended.returncode == 0, ended.stderr


def test_an_embedded_part_is_where_each_node_has_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = Model.locate(ModelSpec(name="tiny"))
    elsewhere = replace(model.parts["stage_c"], uri=str(tmp_path / "prior"))
    sent = pickle.dumps((model, elsewhere))
    assert pickle.loads(sent) == (model, elsewhere)
    monkeypatch.setattr(part, "EMBEDDED", tmp_path / "other")
    there, same = pickle.loads(sent)
    assert there.parts["stage_c"].uri == f"{tmp_path}/other/tiny/prior"
    assert same == elsewhere


def test_a_part_that_was_not_located_is_named() -> None:
    model = Model.locate(ModelSpec(name="tiny"))
    assert (model.optional, model.picture_side()) == ((), None)
    assert model.for_conditions(["mask"]) is model
    with pytest.raises(WeightsError, match="the model has no image_encoder"):
        model.for_conditions(["image"])
