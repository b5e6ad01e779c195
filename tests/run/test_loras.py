"""LoRAs of a run: they change its pictures and keys, and are held on resume; a bad one costs nothing."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.run.runs import manifest_of, render, write_prompts


def lora(folder: Path, seed: int = 0, name: str = "style") -> str:
    """A change of Stage C's last layer, large enough to be seen."""
    generator = torch.Generator().manual_seed(seed)
    path = folder / f"{name}.safetensors"
    tensors = {
        "lora_prior_unet_clf_1.lora_down.weight": torch.randn((2, 40, 1, 1), generator=generator),
        "lora_prior_unet_clf_1.lora_up.weight": torch.randn((16, 2, 1, 1), generator=generator),
    }
    save_file(tensors, path)
    return str(path)


def keys_and_pixels(run: Path) -> tuple[list[str], list[str]]:
    manifest = manifest_of(str(run))
    return manifest["stage_c_key"].to_pylist(), manifest["pixel_sha256"].to_pylist()


def test_a_lora_changes_pictures_and_keys_by_its_weight(tmp_path: Path) -> None:
    prompts, path = write_prompts(tmp_path, 2), lora(tmp_path)
    found = {}
    for name, flags in {"none": [], "half": [f"--lora={path}=0.5"], "whole": [f"--lora={path}"]}.items():
        assert render(prompts, str(tmp_path / name), *flags) == 0
        found[name] = keys_and_pixels(tmp_path / name)
    for which in (0, 1):
        assert len({tuple(found[name][which]) for name in found}) == 3
    assert "loras" not in json.loads((tmp_path / "none" / "weights.json").read_text())
    assert len(json.loads((tmp_path / "half" / "weights.json").read_text())["loras"]) == 64


def test_a_run_goes_on_with_the_same_loras_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts, path, out = write_prompts(tmp_path, 4), lora(tmp_path), str(tmp_path / "run")
    assert render(prompts, out, f"--lora={path}") == 0
    next((tmp_path / "run" / "manifest").glob("*.parquet")).unlink()
    assert render(prompts, out, f"--lora={path}=0.5") == 2
    assert "model.loras" in capsys.readouterr().err
    lora(tmp_path, seed=1)
    assert render(prompts, out, f"--lora={path}") == 2
    assert "loras" in capsys.readouterr().err
    lora(tmp_path)
    assert render(prompts, out, f"--lora={path}") == 0
    assert manifest_of(out).num_rows == 4


def test_a_lora_for_another_model_costs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "sdxl.safetensors", tmp_path / "run"
    save_file({"lora_unet_input_blocks_4_1_proj_in.lora_down.weight": torch.zeros(4, 320)}, path)
    assert render(write_prompts(tmp_path, 2), str(out), f"--lora={path}") == 2
    assert "lora_unet_input_blocks_4_1_proj_in" in capsys.readouterr().err
    assert not out.exists() or not any(out.rglob("*.parquet"))


def test_peft_states_its_alpha_beside_the_file(tmp_path: Path) -> None:
    prompts, pictures = write_prompts(tmp_path, 1), {}
    tensors = {
        "base_model.model.clf.1.lora_A.weight": torch.ones(2, 40, 1, 1),
        "base_model.model.clf.1.lora_B.weight": torch.ones(16, 2, 1, 1),
    }
    for alpha in (None, 2, 4):
        folder = tmp_path / f"alpha-{alpha}"
        folder.mkdir()
        save_file(tensors, folder / "adapter_model.safetensors")
        if alpha:
            (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": alpha}))
        assert (
            render(prompts, str(tmp_path / f"run-{alpha}"), f"--lora={folder}/adapter_model.safetensors=0.01")
            == 0
        )
        pictures[alpha] = keys_and_pixels(tmp_path / f"run-{alpha}")[1]
    assert pictures[None] == pictures[2] != pictures[4]


def test_a_spec_file_names_loras_and_their_tokens(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"model:\n  loras:\n    - uri: {lora(tmp_path)}\n      weight: 0.5\n")
    assert render(write_prompts(tmp_path, 1), str(tmp_path / "run"), f"--spec={spec}") == 0
    stored = json.loads((tmp_path / "run" / "run.json").read_text())["spec"]["model"]["loras"]
    assert [(entry["weight"], entry["tokens"]) for entry in stored] == [(0.5, {})]
    spec.write_text("model:\n  loras:\n    - weight: 0.5\n")
    assert render(write_prompts(tmp_path, 1), str(tmp_path / "bad"), f"--spec={spec}") == 2
