"""A part's tensors in its safetensors files, whatever their layout, under the names of the diffusers layout."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from cascade_batch.errors import WeightsError
from cascade_batch.model.layouts import Header, PartHeader, Source, first_keys, part_header, read_header


def open_part(files: Sequence[Path], part: str) -> PartHeader:
    """Read the files' headers and find the part in them; the files of a sharded part make one.

    Raises WeightsError for a file that is not whole, and as `part_header` does.
    """
    return part_header(part, {str(path): file_header(path) for path in files})


def tensors_of(stored: PartHeader) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of an opened part as it is stored, under its diffusers name. Raises WeightsError."""
    places = stored.merged.files
    with ExitStack() as opened:
        try:
            handles = {
                file: opened.enter_context(safe_open(file, framework="pt")) for file in set(places.values())
            }
            for name, source in stored.found.sources.items():
                yield name, _read(handles[places[source.key]], source)
        except (SafetensorError, OSError) as cause:
            raise WeightsError("the weights cannot be read", where=stored.where, got=cause) from cause


def file_header(path: Path) -> Header:
    """The header of a local safetensors file. Raises WeightsError."""
    try:
        with open(path, "rb") as file:
            return read_header(
                lambda start, end: os.pread(file.fileno(), end - start, start),
                os.fstat(file.fileno()).st_size,
                str(path),
            )
    except OSError as cause:
        raise WeightsError("the weights cannot be read", where=str(path), got=cause) from cause


def _read(handle: Any, source: Source) -> torch.Tensor:
    if source.third is not None:
        rows = source.shape[0]
        return handle.get_slice(source.key)[source.third * rows : (source.third + 1) * rows]
    tensor = handle.get_tensor(source.key)
    return tensor.T.contiguous() if source.is_transposed else tensor


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def listed(fault: str, names: list[str]) -> str:
    return f"{len(names)} {fault}: {first_keys(names)}"
