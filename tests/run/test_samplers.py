"""Samplers of a run: what the spec says reaches pictures and keys, is held on resume, and a bad value costs nothing."""

import json
from pathlib import Path

import pytest

from tests.run.runs import manifest_of, render, write_prompts


def test_presets_and_what_changes_them(tmp_path: Path) -> None:
    prompts, found = write_prompts(tmp_path, 1), {}
    settings = {
        "default": [],
        "named": ["--set=sampler.preset=diffusers", "--set=render.decoder_guidance_scale=0.0"],
        "original": ["--set=sampler.preset=original"],
        "shifted": ["--set=sampler.c.shift=2.0"],
        "ddim": ["--set=sampler.ba.method=ddim"],
        "scaled": ["--set=sampler.stage_a_scale=0.43"],
        "tiled": ["--set=sampler.stage_a_tile=256", "--width=512"],
    }
    for name, flags in settings.items():
        assert render(prompts, str(tmp_path / name), *flags) == 0
        row = manifest_of(str(tmp_path / name)).to_pylist()[0]
        found[name] = row
    assert found["default"]["stage_ba_key"] == found["named"]["stage_ba_key"]
    assert found["default"]["pixel_sha256"] == found["named"]["pixel_sha256"]
    assert found["tiled"]["status"] == "ok"
    others = [found[name] for name in settings if name not in ("named", "tiled")]
    assert len({row["stage_ba_key"] for row in others}) == len({row["pixel_sha256"] for row in others}) == 5
    same_embedding = {found[name]["stage_c_key"] for name in ("default", "ddim", "scaled")}
    assert len(same_embedding) == 1
    assert found["original"]["decoder_guidance_scale"] == 1.1
    assert found["default"]["decoder_guidance_scale"] == 0.0


def test_the_sampler_is_held_on_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts, out = write_prompts(tmp_path, 4), str(tmp_path / "run")
    assert render(prompts, out, "--set=sampler.c.shift=2.0") == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["spec"]["sampler"]["c"]["shift"] == 2.0
    next((tmp_path / "run" / "manifest").glob("*.parquet")).unlink()
    assert render(prompts, out) == 2
    assert "sampler.c.shift" in capsys.readouterr().err
    assert render(prompts, out, "--set=sampler.c.shift=2.0") == 0


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("sampler.preset=orignal", "did you mean original"),
        ("sampler.c.method=euler", "ddpm, ddim, lcm"),
        ("sampler.ba.result=last", "latents, clean"),
        ("sampler.c.guidance_rescale=1.5", "sampler.c.guidance_rescale"),
        ("sampler.c.shift=0", "sampler.c.shift"),
        ("sampler.stage_a_tile=8", "sampler.stage_a_tile"),
        ("sampler.c.steps=4", "unknown key"),
    ],
)
def test_a_bad_setting_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, named: str
) -> None:
    assert render(write_prompts(tmp_path, 1), str(tmp_path / "run"), f"--set={setting}") == 2
    assert named in capsys.readouterr().err
