"""What the headers of a part's files say together, be it one file or several shards.

Whoever asks what a part is reads it here, so that a network's config, a LoRA's shapes, the comparison before a run and
the loading itself cannot disagree about the same files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cascade_batch.errors import WeightsError
from cascade_batch.model.layouts.configs import infer_config
from cascade_batch.model.layouts.header import Entry, Header
from cascade_batch.model.layouts.old_names import modern
from cascade_batch.model.layouts.recognition import Found, check_unscaled, first_keys, recognise, strangers
from cascade_batch.model.layouts.shapes import Shapes


@dataclass(frozen=True)
class Merged:
    """The headers of several files as one."""

    entries: dict[str, Entry]
    files: dict[str, str]
    """Key -> the file that holds it."""
    notes: dict[str, str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {key: entry.shape for key, entry in self.entries.items()}


@dataclass(frozen=True)
class PartHeader:
    """One part in its files' headers."""

    found: Found
    merged: Merged
    where: str
    """Its files."""

    def config(self, given: dict | None = None) -> dict[str, Any]:
        """The `config.json` given, under today's names; without one, what the files tell. Raises WeightsError."""
        if given is not None:
            return modern(given, self.where) if self.found.part in ("stage_c", "stage_b") else given
        return infer_config(self.found.part, self.found.shapes, self.merged.notes, self.where)

    def dtype(self, name: str) -> str:
        """As stored, in safetensors' words."""
        return self.merged.entries[self.found.sources[name].key].dtype


def merge(headers: Mapping[str, Header]) -> Merged:
    """The headers of files, each by its path or URL. Raises WeightsError for keys that two of them have."""
    merged = Merged({}, {}, {})
    for file, header in headers.items():
        if twice := sorted(merged.entries.keys() & header.entries.keys()):
            raise WeightsError("a key is stored twice", where=file, got=first_keys(twice))
        merged.entries.update(header.entries)
        merged.files.update(dict.fromkeys(header.entries, file))
        merged.notes.update(header.notes)
    return merged


def part_header(part: str, headers: Mapping[str, Header]) -> PartHeader:
    """The part in the headers of its files, each by its path or URL.

    Raises WeightsError for a key that two files have, quantized weights, keys of no part, and files without the part.
    """
    merged, where = merge(headers), ", ".join(headers)
    return PartHeader(_found(part, merged.shapes, where), merged, where)


def _found(part: str, shapes: Shapes, where: str) -> Found:
    check_unscaled(shapes, where)
    held = recognise(shapes, where)
    ours = next((found for found in held if found.part == part), None)
    if ours is None:
        parts = ", ".join(found.part for found in held)
        got = parts or f"keys of no known part, such as {next(iter(shapes), '')!r}"
        raise WeightsError(f"no {part} in these weights", where=where, got=got)
    if foreign := strangers(shapes, held):
        listed = f"{len(foreign)} unexpected: {first_keys(foreign)}"
        raise WeightsError("the weights do not fit the network", where=where, got=listed)
    return ours
