"""A part's tensors in its safetensors files, whatever their layout, under the names of the diffusers layout."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from cascade_batch.errors import WeightsError
from cascade_batch.model.layouts import (
    Entry,
    Found,
    Header,
    Source,
    check_unscaled,
    first_keys,
    infer_config,
    modern,
    read_header,
    recognise,
    strangers,
)


@dataclass(frozen=True)
class StoredPart:
    """Where each tensor of a part is, by its diffusers name."""

    found: Found
    files: dict[str, Path]
    """Stored key -> its file."""
    entries: dict[str, Entry]
    """Stored key -> what its header says."""
    notes: dict[str, str]
    where: str

    def config(self, given: dict | None) -> dict:
        """The `config.json` under today's names; without one, what the file tells."""
        if given is not None:
            return modern(given, self.where) if self.found.part in ("stage_c", "stage_b") else given
        return infer_config(self.found.part, self.found.shapes, self.notes, self.where)

    def dtype(self, name: str) -> str:
        """As stored, in safetensors' words."""
        return self.entries[self.found.sources[name].key].dtype

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor as it is stored, under its diffusers name. Raises WeightsError."""
        with ExitStack() as opened:
            try:
                handles = {
                    path: opened.enter_context(safe_open(path, framework="pt"))
                    for path in set(self.files.values())
                }
                for name, source in self.found.sources.items():
                    yield name, _read(handles[self.files[source.key]], source)
            except (SafetensorError, OSError) as cause:
                raise WeightsError("the weights cannot be read", where=self.where, got=cause) from cause


def open_part(files: Sequence[Path], part: str) -> StoredPart:
    """Read the files' headers and find the part in them; the files of a sharded part make one.

    Raises WeightsError for a file that is not whole, quantized weights, a doubled key, a key of no part, and for files
    without the part.
    """
    where = ", ".join(str(path) for path in files)
    places: dict[str, Path] = {}
    entries: dict[str, Entry] = {}
    notes: dict[str, str] = {}
    for path in files:
        header = file_header(path)
        notes |= header.notes
        for key, entry in header.entries.items():
            if key in places:
                raise WeightsError("a key is stored twice", where=str(path), got=key)
            places[key], entries[key] = path, entry
    found = _found({key: entry.shape for key, entry in entries.items()}, part, where)
    return StoredPart(found, places, entries, notes, where)


def _found(shapes: Mapping[str, tuple[int, ...]], part: str, where: str) -> Found:
    check_unscaled(shapes, where)
    held = recognise(shapes, where)
    ours = next((found for found in held if found.part == part), None)
    if ours is None:
        got = (
            ", ".join(found.part for found in held)
            or f"keys of no known part, such as {next(iter(shapes), '')!r}"
        )
        raise WeightsError(f"no {part} in these weights", where=where, got=got)
    if foreign := strangers(shapes, held):
        raise WeightsError(
            "the weights do not fit the network", where=where, got=listed("unexpected", foreign)
        )
    return ours


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
