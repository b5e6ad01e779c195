"""The `model inspect` command: what a checkpoint is. Needs no torch."""

import hashlib
from collections.abc import Sequence

from cascade_batch import weights
from cascade_batch.cli.exit_codes import FINISHED
from cascade_batch.model.layouts import first_keys
from cascade_batch.storage import Storage
from cascade_batch.storage.urls import split_name
from cascade_batch.weights.inspection import PartReport, inspect
from cascade_batch.weights.locating import model_root

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
READ = 1 << 24


def inspect_command(name: str) -> int:
    """Print every part of a checkpoint, what is missing for rendering, and the memory that it takes."""
    root = model_root(name)
    reports = inspect(root)
    base = Storage(split_name(root)[0] if root.endswith(".safetensors") else root)
    for files in dict.fromkeys(report.files for report in reports):
        for file in files:
            print(f"{file}  sha256 {_sha256(base, file)}")
        _print_parts([report for report in reports if report.files == files])
    _print_missing(root, {report.part for report in reports})
    _print_memory(reports)
    return FINISHED


def _print_parts(reports: Sequence[PartReport]) -> None:
    for report in reports:
        published = f", as many as {report.published}" if report.published else ""
        behind = f", behind {report.prefix!r}" if report.prefix else ""
        layout = f", {report.layout} layout{behind}" if report.layout else ""
        print(
            f"    {report.part}: {report.parameters:,} parameters{published}, {'/'.join(report.dtypes)}{layout}"
        )
    if reports[0].strangers:
        print(f"    of no known part: {first_keys(reports[0].strangers)}")
    if reports[0].scales:
        print(f"    quantized, cannot be read: {first_keys(reports[0].scales)}")


def _print_missing(root: str, found: set[str]) -> None:
    has_tokenizer = weights.find("tokenizer", None, root, None) is not None
    missing = [
        part for part in weights.PARTS if part not in found | ({"tokenizer"} if has_tokenizer else set())
    ]
    if missing:
        flags = " ".join(f"--{part.replace('_', '-')} PATH" for part in missing)
        print(f"missing  {', '.join(missing)}: name them to render, {flags}")


def _print_memory(reports: Sequence[PartReport]) -> None:
    """Of one of each part, the largest: a folder may hold a part in several variants."""
    largest = {report.part: report.parameters for report in sorted(reports, key=lambda r: r.parameters)}
    for dtype, size in DTYPE_BYTES.items():
        parts = ", ".join(f"{part} {_megabytes(count * size)}" for part, count in largest.items())
        print(f"memory   {dtype}: {_megabytes(sum(largest.values()) * size)} ({parts})")
    if "stage_c" in largest:
        print("         Stage C runs in float32 or bfloat16: float16 renders black")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.2f} GB"


def _sha256(storage: Storage, key: str) -> str:
    """The store's own word where it keeps digests, as the hub does: no file is fetched to be hashed."""
    if (info := storage.info(key)) and info.sha256:
        return info.sha256
    total = hashlib.sha256()
    with storage.open(key) as file:
        while data := file.read(READ):
            total.update(data)
    return total.hexdigest()
