"""A converted folder is one that diffusers' three pipelines open, and it draws there what it draws here."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    StableCascadeCombinedPipeline,
    StableCascadeDecoderPipeline,
    StableCascadePriorPipeline,
)
from PIL import Image

from cascade_batch.api import Cascade
from cascade_batch.cli import main
from tests.engine.oracle import quiet, relative_error
from tests.weights.official import write_decoder_repository, write_prior_repository

SIZE: dict[str, Any] = {"height": 256, "width": 384}
STEPS: dict[str, Any] = {"num_inference_steps": 2}


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both published repositories in one folder, bfloat16 only but for Stage A."""
    folder = write_prior_repository(tmp_path_factory.mktemp("official") / "model")
    decoder = write_decoder_repository(folder.parent / "decoder")
    for part in ("decoder", "vqgan"):
        shutil.move(decoder / part, folder / part)
    return folder


@pytest.fixture(scope="module")
def converted(official: Path) -> Path:
    out = official.parent / "converted"
    assert main(["model", "convert", str(official), str(out), "--to", "diffusers"]) == 0
    return out


def opened(kind: Any, folder: Path) -> Any:
    quiet()
    pipeline = kind.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_all_three_pipelines_draw_what_the_source_draws(official: Path, converted: Path) -> None:
    seeded = torch.Generator().manual_seed
    ours: Any = Cascade.load(str(official), device="cpu")
    embedding = ours.prior("a red cat", **SIZE, **STEPS, generator=seeded(3)).image_embeddings
    picture = ours.decode(embedding, "a red cat", **STEPS, generator=seeded(4), output_type="np").images[0]
    theirs = opened(StableCascadePriorPipeline, converted)("a red cat", **SIZE, **STEPS, generator=seeded(3))
    assert relative_error(embedding, theirs.image_embeddings) < 5e-5
    decoder = opened(StableCascadeDecoderPipeline, converted)
    made = decoder(
        theirs.image_embeddings, "a red cat", **STEPS, generator=seeded(4), output_type="np"
    ).images[0]
    assert np.abs(made - picture).max() < 1 / 255
    combined = opened(StableCascadeCombinedPipeline, converted)
    assert type(opened(DiffusionPipeline, converted)) is type(combined)
    call: dict[str, Any] = {"prior_num_inference_steps": 2, "num_inference_steps": 2, "output_type": "np"}
    both = combined("a red cat", **SIZE, **call, generator=seeded(5)).images[0]
    assert (
        np.abs(both - ours.render("a red cat", **SIZE, **call, generator=seeded(5)).images[0]).max() < 1 / 255
    )


def test_pictures_are_seen_as_before(official: Path, converted: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    prior = opened(StableCascadePriorPipeline, converted)
    given: dict[str, Any] = {"prompt": "", "images": [Image.fromarray(pixels)], **SIZE, **STEPS}
    theirs = prior(**given, generator=torch.Generator().manual_seed(1)).image_embeddings
    model: Any = Cascade.load(str(official), device="cpu")
    ours = model.prior(**given, generator=torch.Generator().manual_seed(1))
    assert relative_error(ours.image_embeddings, theirs) < 5e-5


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (write_prior_repository, StableCascadePriorPipeline),
        (write_decoder_repository, StableCascadeDecoderPipeline),
    ],
)
def test_half_a_model_becomes_half_a_pipeline(write: Any, kind: Any, tmp_path: Path) -> None:
    source, out, back = write(tmp_path / "half"), tmp_path / "out", tmp_path / "back"
    assert main(["model", "convert", str(source), str(out), "--to", "diffusers"]) == 0
    assert type(opened(DiffusionPipeline, out)) is kind
    assert main(["model", "convert", str(out), str(back), "--to", "original"]) == 0
    assert (back / "scheduler" / "scheduler_config.json").exists()
