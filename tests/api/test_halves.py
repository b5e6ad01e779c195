"""One published repository is enough for its half of the work."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cascade_batch.api import Cascade
from cascade_batch.cli import main
from cascade_batch.errors import WeightsError
from tests.run.runs import QUICK, write_prompts
from tests.weights.official import write_decoder_repository, write_prior_repository

SIZE: dict[str, Any] = {"height": 256, "width": 256}
STEPS: dict[str, Any] = {"num_inference_steps": 2}


@pytest.fixture
def prior_folder(tmp_path: Path) -> Path:
    return write_prior_repository(tmp_path / "stable-cascade-prior")


@pytest.fixture
def decoder_folder(tmp_path: Path) -> Path:
    return write_decoder_repository(tmp_path / "stable-cascade")


def loaded(folder: Path) -> Any:
    return Cascade.load(str(folder), device="cpu")


def test_each_half_does_what_the_whole_does(prior_folder: Path, decoder_folder: Path) -> None:
    whole: Any = Cascade.load(str(decoder_folder), stage_c=str(prior_folder), device="cpu")
    prior, decoder = loaded(prior_folder), loaded(decoder_folder)
    embeddings = prior.prior("", images=None, image_embeds=torch.ones(1, 1, 16), **SIZE, **STEPS, seed=1)
    assert prior._stages.loaded == {"prior"}
    given = (embeddings.image_embeddings, "a cat")
    pictures = [
        model.decode(
            *given, **STEPS, guidance_scale=2.0, negative_prompt="a dog", seed=2, output_type="np"
        ).images
        for model in (decoder, whole)
    ]
    assert np.array_equal(*pictures)
    assert decoder._stages.loaded == whole._stages.loaded == {"decoder"}, "Stage C is in nobody's memory"
    whole.prior("a cat", **SIZE, **STEPS, seed=1)
    again = whole.decode(
        *given, **STEPS, guidance_scale=2.0, negative_prompt="a dog", seed=2, output_type="np"
    )
    assert np.array_equal(again.images, pictures[0])


def test_what_half_a_model_lacks_is_named(prior_folder: Path, decoder_folder: Path, tmp_path: Path) -> None:
    prior, decoder = loaded(prior_folder), loaded(decoder_folder)
    for call in (lambda: decoder.prior("a cat", **SIZE), lambda: decoder.render("a cat", **SIZE)):
        with pytest.raises(WeightsError, match="the model has no stage_c"):
            call()
    for call in (
        lambda: prior.decode(torch.zeros(1, 16, 6, 6), "a cat"),
        lambda: prior.render("a cat", **SIZE),
    ):
        with pytest.raises(WeightsError, match="the model has no stage_b"):
            call()
    assert not prior._stages.loaded - {"prior"}
    with pytest.raises(WeightsError, match="the model has no stage_b"):
        Cascade.load(str(prior_folder), stage_b=str(tmp_path / "nowhere"))
    with pytest.raises(WeightsError, match="the model has no stage_c"):
        Cascade.load(str(decoder_folder), loras=[{"uri": str(tmp_path / "a.safetensors")}])
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="the model has no stage"):
        Cascade.load(str(tmp_path / "empty"))


def test_a_run_needs_both_halves(
    prior_folder: Path, decoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path, 1)
    for command in (["render", "--out", str(tmp_path / "run"), "--runner", "local"], ["plan"]):
        for folder, missing in ((prior_folder, "stage_b"), (decoder_folder, "stage_c")):
            name, *flags = command
            assert main([name, str(prompts), *flags, *QUICK[1:], f"--model={folder}"]) == 2
            printed = capsys.readouterr().err
            assert f"the model has no {missing}" in printed
            assert f"model.{missing}" in printed
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())
