"""LoRAs of a run: they change its pictures and keys, and are held on resume; a bad one costs nothing."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

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


def peft(folder: Path, config: dict | None, name: str = "adapter_model") -> Path:
    """A folder of PEFT's, with or without its config."""
    folder.mkdir()
    tensors = {
        "base_model.model.clf.1.lora_A.weight": torch.ones(2, 40, 1, 1),
        "base_model.model.clf.1.lora_B.weight": torch.ones(16, 2, 1, 1),
    }
    save_file(tensors, folder / f"{name}.safetensors")
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_peft_states_its_alpha_beside_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = write_prompts(tmp_path, 1)
    two, four = {"r": 2, "lora_alpha": 2}, {"r": 2, "lora_alpha": 4}
    flags = {
        "two": f"{peft(tmp_path / 'a', two)}/adapter_model.safetensors=0.01",
        "a folder": f"{peft(tmp_path / 'b', two)}=0.01",
        "a renamed file": f"{peft(tmp_path / 'c', two, name='style')}/style.safetensors=0.01",
        "stated": f"{peft(tmp_path / 'd', None)}=0.01,alpha=2",
        "four": f"{peft(tmp_path / 'e', four)}=0.01",
        "stabilised": f"{peft(tmp_path / 'f', {**two, 'use_rslora': True})}=0.01",
    }
    found = {}
    for name, flag in flags.items():
        assert render(prompts, str(tmp_path / f"run {name}"), f"--lora={flag}") == 0, name
        found[name] = [*map(tuple, keys_and_pixels(tmp_path / f"run {name}"))]
    assert len({found[name][1] for name in ("two", "a folder", "a renamed file", "stated")}) == 1
    assert len({found[name][1] for name in ("two", "four", "stabilised")}) == 3
    assert found["two"][0] == found["a folder"][0]
    assert len({found[name][0] for name in ("two", "four", "stabilised", "stated")}) == 4, "stage keys"
    assert render(prompts, str(tmp_path / "none"), f"--lora={peft(tmp_path / 'g', None)}") == 2
    assert "nothing tells how strong this LoRA is" in (printed := capsys.readouterr().err)
    assert ",alpha=16" in printed


def test_an_adapter_config_that_changed_is_another_lora(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = write_prompts(tmp_path, 1), str(tmp_path / "run")
    folder = peft(tmp_path / "lora", {"r": 2, "lora_alpha": 2})
    assert render(prompts, out, f"--lora={folder}=0.01") == 0
    next((tmp_path / "run" / "manifest").glob("*.parquet")).unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))
    assert render(prompts, out, f"--lora={folder}=0.01") == 2
    assert "not those the run began with" in capsys.readouterr().err


def test_a_foreign_config_beside_a_file_is_not_its_own(tmp_path: Path) -> None:
    """A folder of downloads: the adapter's config says nothing of a community file that lies beside it."""
    folder, prompts = peft(tmp_path / "downloads", {"r": 2, "lora_alpha": 64}), write_prompts(tmp_path, 1)
    lora(folder)
    assert render(prompts, str(tmp_path / "a"), f"--lora={folder}/style.safetensors") == 0
    assert render(prompts, str(tmp_path / "b"), f"--lora={lora(tmp_path)}") == 0
    assert keys_and_pixels(tmp_path / "a") == keys_and_pixels(tmp_path / "b")


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("{path}=nan", "model.loras[0].weight"),
        ("{path}=-inf", "model.loras[0].weight"),
        ("{path}=1e999", "model.loras[0].weight"),
        ("{path}=", "--lora takes PATH"),
        ("{path}=strong", "--lora takes PATH"),
        ("=0.5", "model.loras[0].uri"),
        ("", "model.loras[0].uri"),
        ("{path},alpha=nan", "model.loras[0].alpha"),
        ("{path},alpha=", "--lora takes PATH"),
        ("{folder}", "more than one file"),
        ("{folder}/nothing", "no LoRA here"),
    ],
)
def test_what_cannot_be_meant_costs_nothing(
    flag: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora(tmp_path, name="another")
    flag = flag.format(path=lora(tmp_path), folder=tmp_path)
    assert render(write_prompts(tmp_path, 1), str(tmp_path / "run"), f"--lora={flag}") == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "run" / "run.json").exists()


def test_numbers_that_are_not_finite_change_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(lora(tmp_path))
    save_file({key: tensor / 0 for key, tensor in load_file(path).items()}, path)
    assert render(write_prompts(tmp_path, 1), str(tmp_path / "run"), f"--lora={path}") == 2
    assert "numbers are not finite" in capsys.readouterr().err


def test_a_negative_weight_and_a_path_with_an_equals_sign(tmp_path: Path) -> None:
    prompts, path = write_prompts(tmp_path, 1), lora(tmp_path, name="style=v2")
    found = []
    for number, flag in enumerate((path, f"{path}=-1", f"{path}=0.5")):
        assert render(prompts, str(tmp_path / f"run-{number}"), f"--lora={flag}") == 0
        found.append(tuple(keys_and_pixels(tmp_path / f"run-{number}")[1]))
    assert len(set(found)) == 3


def test_a_spec_file_names_loras_and_their_tokens(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"model:\n  loras:\n    - uri: {lora(tmp_path)}\n      weight: 0.5\n")
    assert render(write_prompts(tmp_path, 1), str(tmp_path / "run"), f"--spec={spec}") == 0
    stored = json.loads((tmp_path / "run" / "run.json").read_text())["spec"]["model"]["loras"]
    assert [(entry["weight"], entry["tokens"]) for entry in stored] == [(0.5, {})]
    spec.write_text("model:\n  loras:\n    - weight: 0.5\n")
    assert render(write_prompts(tmp_path, 1), str(tmp_path / "bad"), f"--spec={spec}") == 2
