"""The `model convert` command: a checkpoint's parts in the other layout."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from cascade_batch import weights
from cascade_batch.cli.exit_codes import FINISHED
from cascade_batch.engine.loading.conversion import CLASSES, write_diffusers, write_original
from cascade_batch.errors import WeightsError
from cascade_batch.model.parts import PartFiles
from cascade_batch.weights.folders import stem_of
from cascade_batch.weights.pipelines import write_pipeline, write_settings
from cascade_batch.weights.published_settings import check_settings

SINGLE = ("effnet_encoder", "controlnet")
"""Parts that are single files in either layout; diffusers knows neither."""


def convert_command(name: str, out: Path, layout: str) -> int:
    """Write what there is of the model below `out`, and say what was written."""
    root = weights.model_root(name)
    parts = {part: weights.find(part, None, root, None) for part in (*weights.PARTS, *weights.OPTIONAL)}
    found = {name: part for name, part in parts.items() if part is not None}
    if not found:
        raise WeightsError("no part of a model here", where=root)
    check_settings(found)
    _check_new(out)
    out.mkdir(parents=True, exist_ok=True)
    for name, part in found.items():
        print(f"{name}: {_write(part, out, layout)}")
    _write_beside(found, out, layout)
    return FINISHED


def _check_new(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WeightsError(
            "the folder to convert into is not empty", where=str(out), next_step="name a new one"
        )


def _write(part: weights.Part, out: Path, layout: str) -> Path:
    """The CLIP encoders and the tokenizer were never part of the original release; they keep their folders."""
    folder, subfolder = weights.fetch(part), out / weights.SUBFOLDERS[part.name]
    if part.name == "tokenizer":
        subfolder.mkdir()
        for extra in part.extras:
            shutil.copyfile(folder / extra, subfolder / extra)
        return subfolder
    files = PartFiles(weights.read_config(part), folder, tuple(folder / file for file in part.files))
    if part.name in SINGLE or (layout == "original" and part.name in CLASSES):
        target = out / f"{part.name}.safetensors"
        write_original(part.name, files, target)
    else:
        target = subfolder / f"{stem_of(part.name)}.safetensors"
        write_diffusers(part.name, files, target)
    return target


def _write_beside(found: Mapping[str, weights.Part], out: Path, layout: str) -> None:
    """The settings that belong to the parts, and in the diffusers layout the index of their pipeline."""
    encoder = found.get("image_encoder")
    side = weights.picture_side(encoder) if encoder else 224
    if layout == "original":
        return write_settings(out, found, side)
    pipeline = write_pipeline(out, found, side)
    print(f"model_index.json: {pipeline}" if pipeline else "no model_index.json: not the parts of a pipeline")
    for name in ("stage_c", "stage_b"):
        kind = weights.read_config(found[name]).get("prediction_type") if name in found else None
        if kind not in (None, "epsilon"):
            print(f"note: {name} predicts {kind}, which diffusers' pipelines take for noise")
    return None
