"""Checkpoints at the command line: inspected, converted, mixed, damaged; offline, and light where nothing is loaded."""

import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cascade_batch.cli import main
from cascade_batch.engine.loading.checkpoints import (
    load_stage_a,
    load_stage_b,
    load_stage_c,
    load_text_encoder,
)
from cascade_batch.errors import WeightsError
from cascade_batch.settings import ModelSpec
from cascade_batch.weights import EMBEDDED, Model
from cascade_batch.weights.local import load_parts
from cascade_batch.workers.fit import weight_digests
from tests.patience import PATIENCE_S
from tests.run.runs import render, write_prompts

LOAD = {
    "stage_c": load_stage_c, "stage_b": load_stage_b, "stage_a": load_stage_a, "text_encoder": load_text_encoder,
}  # fmt: skip


def test_inspect_tells_what_a_model_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "inspect", "tiny"]) == 0
    printed = capsys.readouterr().out
    for part in ("stage_c", "stage_b", "stage_a", "text_encoder"):
        assert f"    {part}: " in printed
    assert "parameters, F32, diffusers layout" in printed
    assert "missing" not in printed
    assert "float16 renders black" in printed
    sums = (EMBEDDED / "tiny" / "prior" / "SHA256SUMS").read_text()
    line = next(line for line in printed.splitlines() if line.startswith("prior/"))
    assert line.split()[-1] in sums


def test_inspect_tells_what_one_file_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "inspect", str(EMBEDDED / "tiny/vqgan/diffusion_pytorch_model.safetensors")]) == 0
    printed = capsys.readouterr().out
    assert "missing  stage_c, stage_b, text_encoder, tokenizer" in printed
    assert "--stage-c PATH --stage-b PATH --text-encoder PATH --tokenizer PATH" in printed


def test_inspect_needs_no_torch() -> None:
    program = (
        "import sys; from cascade_batch.cli import main; "
        "code = main(sys.argv[1:]); sys.exit(code or 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", program, "model", "inspect", "tiny"]
    ended = subprocess.run(command, capture_output=True, timeout=PATIENCE_S)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("command", [["inspect"], ["convert", "--to=original"]])
def test_what_is_no_checkpoint_is_explained(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("no weights")
    action, *rest = command
    target = [str(tmp_path / "out")] if action == "convert" else []
    assert main(["model", action, str(tmp_path), *target, *rest]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_a_run_from_converted_weights_has_the_same_pictures(tmp_path: Path) -> None:
    original, back = str(tmp_path / "original"), str(tmp_path / "back")
    assert main(["model", "convert", "tiny", original, "--to", "original"]) == 0
    assert main(["model", "convert", original, back, "--to", "diffusers"]) == 0
    assert main(["model", "convert", original, back, "--to", "diffusers"]) == 2, "the folder is not empty"
    prompts = write_prompts(tmp_path, 2)
    mixed = [f"--stage-c={original}/stage_c.safetensors", "--stage-b=tiny", f"--text-encoder={back}"]
    assert render(prompts, str(tmp_path / "tiny")) == 0
    pictures = pixels(tmp_path / "tiny")
    for name, flags in (("a", [f"--model={original}"]), ("b", [f"--model={back}"]), ("c", mixed)):
        assert render(prompts, str(tmp_path / name), *flags) == 0, flags
        assert pixels(tmp_path / name) == pictures


def as_comfyui(folder: Path, dtype: torch.dtype, extra: dict[str, torch.Tensor]) -> tuple[Path, Path]:
    """Stage C of `tiny` as ComfyUI saves it, its matrices in `dtype`; and the same numbers as the original release."""
    assert main(["model", "convert", "tiny", str(folder / "original"), "--to", "original"]) == 0
    original = folder / "original" / "stage_c.safetensors"
    with safe_open(original, "pt") as file:
        notes, saved = file.metadata(), {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    rounded = {key: t.to(dtype) if t.ndim > 1 else t for key, t in tensors.items()}
    for key, tensor in rounded.items():
        before, joined, kind = key.partition("in_proj_")
        for name, part in zip(("to_q.", "to_k.", "to_v."), tensor.chunk(3), strict=False):
            saved[
                f"model.diffusion_model.{before}{name}{kind}" if joined else f"model.diffusion_model.{key}"
            ] = part.clone() if joined else tensor
    path = folder / "comfyui.safetensors"
    save_file({**saved, **extra}, path, metadata=notes)
    save_file({key: tensor.float() for key, tensor in rounded.items()}, original, metadata=notes)
    return path, original


def test_a_float8_checkpoint_that_comfyui_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, original = as_comfyui(tmp_path, torch.float8_e4m3fn, {})
    assert main(["model", "inspect", str(path)]) == 0
    assert (
        "parameters, F32/F8_E4M3, comfyui layout, behind 'model.diffusion_model.'" in capsys.readouterr().out
    )
    prompts = write_prompts(tmp_path, 1)
    for name, stage_c in (("a", path), ("b", original)):
        assert render(prompts, str(tmp_path / name), f"--stage-c={stage_c}") == 0
    assert pixels(tmp_path / "a") == pixels(tmp_path / "b")


def test_scaled_float8_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scale = {"model.diffusion_model.clf.1.scale_weight": torch.ones(1)}
    path, _ = as_comfyui(tmp_path, torch.float8_e4m3fn, scale)
    assert main(["model", "inspect", str(path)]) == 0
    assert "quantized, cannot be read: model.diffusion_model.clf.1.scale_weight" in capsys.readouterr().out
    assert render(write_prompts(tmp_path, 1), str(tmp_path / "run"), f"--stage-c={path}") == 2
    assert "scaled float8 weights cannot be read" in capsys.readouterr().err
    assert main(["model", "convert", str(path), str(tmp_path / "out"), "--to", "diffusers"]) == 2
    assert "scaled float8 weights cannot be read" in capsys.readouterr().err


def pixels(run: Path) -> dict[str, bytes]:
    """A PNG also names its weights, so its file differs where its picture does not."""
    return {path.name: Image.open(path).tobytes() for path in sorted(run.glob("images/**/*.png"))}


Damage = Callable[[Path, random.Random], None]


def cut(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def flip_header(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(8 + int.from_bytes(data[:8], "little"))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def reshape(path: Path, rng: random.Random) -> None:
    tensors = load_file(path)
    name = rng.choice([key for key, tensor in tensors.items() if tensor.ndim])
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, path)


def rename(path: Path, rng: random.Random) -> None:
    tensors = load_file(path)
    tensors["renamed"] = tensors.pop(rng.choice(list(tensors)))
    save_file(tensors, path)


@pytest.mark.parametrize("damage", [cut, flip, flip_header, reshape, rename])
def test_forty_damaged_files_are_forty_clear_errors(damage: Damage, tmp_path: Path) -> None:
    """Files whose checksums are gone with the damage, but for `flip`: a flipped weight is a weight like any other."""
    rng = random.Random(damage.__name__)
    model = Path(shutil.copytree(EMBEDDED / "tiny", tmp_path / "tiny"))
    spec = ModelSpec(name=str(model))
    digests = weight_digests(Model.locate(spec))
    for _ in range(40):
        path = rng.choice(sorted(model.rglob("*.safetensors")))
        whole, sums = path.read_bytes(), (path.parent / "SHA256SUMS").read_text()
        damage(path, rng)
        if damage is not flip:
            (path.parent / "SHA256SUMS").unlink()
        with pytest.raises(WeightsError) as refused:
            load_all(spec, digests if damage is flip else weight_digests(Model.locate(spec)))
        assert str(path.parent) in str(refused.value)
        assert len(str(refused.value)) < 1500
        path.write_bytes(whole)
        (path.parent / "SHA256SUMS").write_text(sums)
    load_all(spec, digests)


def load_all(spec: ModelSpec, digests: dict[str, str]) -> None:
    parts = load_parts(Model.locate(spec), tuple(LOAD), digests)
    for name, load in LOAD.items():
        load(parts[name].config, parts[name].files, "float32", "cpu")


def test_loading_asks_nothing_of_any_network(tmp_path: Path) -> None:
    """A folder is enough: with every socket broken, all parts load."""
    program = (
        "import socket\n"
        "def refuse(*_, **__): raise OSError('no network here')\n"
        "socket.socket.connect = socket.create_connection = refuse\n"
        "from tests.run.test_checkpoints import LOAD, load_all\n"
        "from cascade_batch.settings import ModelSpec\n"
        "from cascade_batch.weights import Model\n"
        "from cascade_batch.workers.fit import weight_digests\n"
        f"spec = ModelSpec(name={str(EMBEDDED / 'tiny')!r})\n"
        "load_all(spec, weight_digests(Model.locate(spec)))\n"
    )
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.returncode == 0, ended.stderr
