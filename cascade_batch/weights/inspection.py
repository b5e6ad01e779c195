"""What is in a checkpoint: every part in every file of a folder, or of one file, told by the keys."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from cascade_batch.errors import WeightsError
from cascade_batch.model.layouts import Entry, merge, recognise, scales, strangers
from cascade_batch.storage import Storage
from cascade_batch.storage.urls import split_name
from cascade_batch.weights.folders import shard_files
from cascade_batch.weights.part import file_header
from cascade_batch.weights.single_files import SUFFIX

SHARD = re.compile(r"-\d{5}-of-\d{5}")
"""In the names of the files of a sharded part."""
PUBLISHED = {
    3_589_103_632: "the full Stage C",
    1_030_785_040: "the lite Stage C",
    1_562_941_136: "the full Stage B",
    699_471_248: "the lite Stage B",
    18_406_902: "Stage A",
    694_659_840: "CLIP bigG",
    303_966_208: "CLIP ViT-L",
    20_351_872: "the effnet encoder",
    54_409_648: "the canny ControlNet",
    54_410_296: "the inpainting ControlNet",
    203_491_584: "the super-resolution ControlNet",
}
"""Stored floating-point numbers, statistics of normalization included -> which published network has so many."""


@dataclass(frozen=True)
class PartReport:
    """One part of a checkpoint."""

    part: str
    files: tuple[str, ...]
    """Keys below the folder that was looked at."""
    layout: str
    prefix: str
    parameters: int
    """Floating-point numbers; counters are none."""
    dtypes: tuple[str, ...]
    strangers: tuple[str, ...]
    """Keys in these files that belong to no part."""
    scales: tuple[str, ...]
    """Keys in these files that make them quantized weights, which cannot be read."""

    @property
    def published(self) -> str | None:
        """Which of the published networks it is as big as."""
        return PUBLISHED.get(self.parameters)


def inspect(uri: str) -> list[PartReport]:
    """Every part below a folder, or in a file. Reads headers alone.

    Raises WeightsError if there are no weights, a file of them is damaged, a shard is missing, or shards share a key.
    """
    storage, files = _files(uri)
    if not uri.endswith(SUFFIX):
        _check_indexes(storage)
    groups: dict[str, list[str]] = {}
    for file in files:
        groups.setdefault(SHARD.sub("", file), []).append(file)
    if not groups:
        there = sorted(info.key for info in storage.list())[:10]
        raise WeightsError("no weights here", where=uri, got=there, expected="safetensors files")
    return [report for group in groups.values() for report in _reports(storage, sorted(group))]


def _check_indexes(storage: Storage) -> None:
    """Raise WeightsError for an index that names a shard which is not beside it."""
    keys = {info.key for info in storage.list()}
    for key in sorted(key for key in keys if ".safetensors.index" in key and key.endswith(".json")):
        uri, index = split_name(storage.url(key))
        folder = Storage(uri)
        shard_files(folder, {info.key for info in folder.list()}, index)


def _files(uri: str) -> tuple[Storage, list[str]]:
    if uri.endswith(SUFFIX):
        folder, file = split_name(uri)
        return Storage(folder), [file]
    storage = Storage(uri)
    return storage, sorted(info.key for info in storage.list() if info.key.endswith(SUFFIX))


def _reports(storage: Storage, files: list[str]) -> Iterable[PartReport]:
    merged = merge({storage.url(file): file_header(storage, file) for file in files})
    entries, shapes = merged.entries, merged.shapes
    found = recognise(shapes, storage.url(files[0]))
    foreign, quantized = tuple(strangers(shapes, found)), tuple(scales(shapes))
    if not found:
        numbers = _count(entries.values()), _dtypes(entries.values())
        yield PartReport("unknown", tuple(files), "", "", *numbers, foreign, quantized)
    for part in found:
        own = [entries[key] for key in {source.key for source in part.sources.values()}]
        numbers = _count(own), _dtypes(own)
        yield PartReport(part.part, tuple(files), part.layout, part.prefix, *numbers, foreign, quantized)


def _count(entries: Iterable[Entry]) -> int:
    return sum(math.prod(entry.shape) for entry in entries if _is_float(entry))


def _dtypes(entries: Iterable[Entry]) -> tuple[str, ...]:
    return tuple(sorted({entry.dtype for entry in entries if _is_float(entry)}))


def _is_float(entry: Entry) -> bool:
    return "F" in entry.dtype
