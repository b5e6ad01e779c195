"""The `model convert` command: a checkpoint's parts in the other layout."""

import shutil
from pathlib import Path

from cascade_batch import weights
from cascade_batch.cli.entry import FINISHED
from cascade_batch.errors import WeightsError
from cascade_batch.models.checkpoints import PartFiles
from cascade_batch.models.conversion import CLASSES, write_diffusers, write_original
from cascade_batch.weights.folders import stem_of


def convert_command(name: str, out: Path, layout: str) -> int:
    """Write what there is of the model below `out`, and say what was written."""
    root = weights.model_root(name)
    parts = {part: weights.find(part, None, root, None) for part in weights.PARTS}
    found = {name: part for name, part in parts.items() if part is not None}
    if not found:
        raise WeightsError("no part of a model here", where=root)
    _check_new(out)
    out.mkdir(parents=True, exist_ok=True)
    for name, part in found.items():
        print(f"{name}: {_write(part, out, layout)}")
    return FINISHED


def _check_new(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WeightsError(
            "the folder to convert into is not empty", where=str(out), next_step="name a new one"
        )


def _write(part: weights.Part, out: Path, layout: str) -> Path:
    """The text encoder and tokenizer were never part of the original release; they keep their folders."""
    folder, subfolder = weights.fetch(part), out / weights.SUBFOLDERS[part.name]
    if part.name == "tokenizer":
        subfolder.mkdir()
        for extra in part.extras:
            shutil.copyfile(folder / extra, subfolder / extra)
        return subfolder
    files = PartFiles(weights.read_config(part), folder, tuple(folder / file for file in part.files))
    if layout == "original" and part.name in CLASSES:
        target = out / f"{part.name}.safetensors"
        write_original(part.name, files, target)
    else:
        target = subfolder / f"{stem_of(part.name)}.safetensors"
        write_diffusers(part.name, files, target)
    return target
