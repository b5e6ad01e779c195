"""Settings beside weights: the published values pass, any other is refused by name, in `plan` and `render` alike."""

import json
from pathlib import Path

import pytest

from cascade_batch.api import Cascade
from cascade_batch.cli import main
from cascade_batch.errors import WeightsError
from cascade_batch.settings import ModelSpec
from cascade_batch.weights import locate
from tests.run.runs import QUICK, write_prompts
from tests.weights.official import write_decoder_repository, write_prior_repository

PROCESSOR = "prior/feature_extractor/preprocessor_config.json"
REFUSED = [
    ("prior/scheduler/scheduler_config.json", {"scaler": 2.0}, "scaler"),
    ("prior/scheduler/scheduler_config.json", {"s": 0.01}, "s"),
    ("decoder/scheduler/scheduler_config.json", {"s": "0.008"}, "s"),
    ("decoder/scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler"}, "_class_name"),
    ("decoder/scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}, "prediction_type"),
    ("prior/model_index.json", {"resolution_multiple": 32.0}, "resolution_multiple"),
    ("decoder/model_index.json", {"latent_dim_scale": 8}, "latent_dim_scale"),
    ("decoder/model_index.json", {"guess": True}, "guess"),
    (PROCESSOR, {"size": {"shortest_edge": 64}}, "size"),
    (PROCESSOR, {"size": {"height": 56, "width": 56}}, "size"),
    (PROCESSOR, {"crop_size": 48}, "crop_size"),
    (PROCESSOR, {"do_center_crop": False}, "do_center_crop"),
    (PROCESSOR, {"do_normalize": False}, "do_normalize"),
    (PROCESSOR, {"do_resize": 1}, "do_resize"),
    (PROCESSOR, {"image_mean": [0.5, 0.5, 0.5]}, "image_mean"),
    (PROCESSOR, {"image_std": [0.5, 0.5, 0.5]}, "image_std"),
    (PROCESSOR, {"resample": 2}, "resample"),
    (PROCESSOR, {"rescale_factor": 1.0}, "rescale_factor"),
    (PROCESSOR, {"image_processor_type": "SiglipImageProcessor"}, "image_processor_type"),
]
LET_PASS = [
    ("prior/scheduler/scheduler_config.json", {"scaler": 1, "_name_or_path": "x"}),
    ("prior/model_index.json", {"_commit": "abc", "scheduler": ["diffusers", "DDPMWuerstchenScheduler"]}),
    (
        PROCESSOR,
        {"size": 56, "crop_size": 56, "do_pad": None, "device": None, "data_format": "channels_first"},
    ),
    (PROCESSOR, {"image_processor_type": "CLIPImageProcessorFast", "processor_class": "CLIPProcessor"}),
]


@pytest.fixture
def model(tmp_path: Path) -> dict[str, str]:
    decoder = write_decoder_repository(tmp_path / "decoder")
    prior = write_prior_repository(tmp_path / "prior")
    return {"name": str(decoder), "stage_c": str(prior), "image_encoder": str(prior)}


def change(path: Path, settings: dict) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(("file", "settings", "name"), REFUSED)
def test_what_is_not_implemented_is_refused_by_name(
    file: str, settings: dict, name: str, model: dict[str, str], tmp_path: Path
) -> None:
    change(tmp_path / file, settings)
    with pytest.raises(WeightsError, match=f"the setting {name} is not implemented") as refused:
        locate(ModelSpec(**model), ["image_encoder"])
    assert file in str(refused.value)
    with pytest.raises(WeightsError, match=name):
        Cascade.load(
            model["name"], stage_c=model["stage_c"], image_encoder=model["image_encoder"], device="cpu"
        )


@pytest.mark.parametrize(("file", "settings"), LET_PASS)
def test_what_is_the_same_in_other_words_passes(
    file: str, settings: dict, model: dict[str, str], tmp_path: Path
) -> None:
    change(tmp_path / file, settings)
    assert locate(ModelSpec(**model), ["image_encoder"])


@pytest.mark.parametrize("command", [["plan"], ["render", "--runner=local", "--out={}"]])
def test_commands_end_before_anything_is_spent(
    command: list[str], model: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(tmp_path / "prior/scheduler/scheduler_config.json", {"scaler": 2.0})
    name, *flags = (word.format(tmp_path / "run") for word in command)
    parts = [f"--model={model['name']}", f"--stage-c={model['stage_c']}"]
    assert main([name, str(write_prompts(tmp_path, 1)), *flags, *QUICK[1:], *parts]) == 2
    assert "got: scaler = 2.0" in capsys.readouterr().err


def test_settings_of_a_saved_combined_pipeline(model: dict[str, str], tmp_path: Path) -> None:
    root, prior = Path(model["name"]), Path(model["stage_c"])
    for folder in ("prior", "scheduler"):
        (prior / folder).rename(root / f"prior_{folder}")
    change(root / "prior_scheduler" / "scheduler_config.json", {"s": 0.1})
    with pytest.raises(WeightsError, match="the setting s is not implemented"):
        locate(ModelSpec(name=str(root)))
