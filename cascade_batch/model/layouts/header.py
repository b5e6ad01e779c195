"""The header of a safetensors file: names, dtypes and shapes, without the weights behind it.

The format: 8 bytes, the header's length as a little-endian integer; the header, a JSON object of name ->
{"dtype", "shape", "data_offsets"}; the data. Every promise that the header makes is checked against the file's
size, so that a cut or scribbled file is found before anything is built on it.
"""

import json
import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from cascade_batch.errors import WeightsError

MAX_HEADER = 100 * 1024 * 1024
"""As safetensors itself has it."""
MOST_AXES, LARGEST = 64, 2**63
"""What torch can hold; safetensors counts as far."""
DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "F8_E8M0": 1, "U16": 2, "U32": 4, "U64": 8,
    "C64": 8,
}  # fmt: skip
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""What torch.save writes begins with one of these."""

ReadRange = Callable[[int, int], bytes]
"""Bytes [start, end) of a file."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file."""

    dtype: str
    """In safetensors' words: F32, F16, BF16, ..."""
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class Header:
    entries: dict[str, Entry]
    """The tensors by name."""
    notes: dict[str, str]
    """What its writer noted, `__metadata__` in the file."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self.entries.items()}


def read_header(read: ReadRange, size: int, where: str) -> Header:
    """The header of a safetensors file of `size` bytes.

    Raises WeightsError for a pickle, a cut file and a header that does not fit its file, naming the tensor.
    """
    head = read(0, min(8, size))
    if head.startswith(PICKLES):
        raise WeightsError(
            "a pickle: loading it would run whatever code it holds",
            where=where,
            expected="a safetensors file",
            next_step="ask its author for safetensors, or convert it where you trust it",
        )
    length = int.from_bytes(head, "little")
    if size < 8 or not 2 <= length <= min(size - 8, MAX_HEADER):
        raise _broken(where, f"{size} bytes, of which the header should be {length}")
    content = _json_object(read(8, 8 + length), where)
    notes = content.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise _broken(where, f"notes that are no texts: {reprlib.repr(notes)}")
    entries = {name: _entry(name, entry, where) for name, entry in content.items()}
    _check_offsets(content, size - 8 - length, where)
    return Header(entries, notes)


def _json_object(data: bytes, where: str) -> dict:
    def once(pairs: list[tuple[str, object]]) -> dict:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise WeightsError("a key is stored twice", where=where, got=twice)
        return dict(pairs)

    try:
        text = data.decode("utf-8")
        content = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise _broken(where, f"a header that is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise _broken(where, "a header that is no JSON object")
    if not text.startswith("{"):
        raise _broken(where, f"a header that begins with {text[0]!r}")
    for name in content:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise _broken(where, f"a name that is no text: {name!a}") from None
    return content


def _entry(name: str, entry: object, where: str) -> Entry:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _broken(where, f"{name}: {reprlib.repr(entry)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _broken(where, f"{name} of dtype {reprlib.repr(dtype)}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2 or len(shape) > MOST_AXES:
        raise _broken(where, f"{name} of shape {reprlib.repr(shape)} at {reprlib.repr(offsets)}")
    nbytes = math.prod(shape) * DTYPE_BYTES[dtype]
    if offsets[1] - offsets[0] != nbytes:
        raise _broken(
            where, f"{name}: {dtype} {shape} is {nbytes} bytes, its place has {offsets[1] - offsets[0]}"
        )
    return Entry(dtype, tuple(shape), nbytes)


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < LARGEST for value in values)


def _check_offsets(content: dict, data_bytes: int, where: str) -> None:
    """The tensors lie one behind the other and fill the file to its end."""
    places = sorted((*entry["data_offsets"], name) for name, entry in content.items())
    for (_, end, name), (start, _, following) in pairwise([(0, 0, ""), *places]):
        if start != end:
            raise _broken(
                where, f"{following} begins at byte {start} of the data, {name or 'nothing'} ends at {end}"
            )
    end, last = (places[-1][1], places[-1][2]) if places else (0, "nothing")
    if end > data_bytes:
        cut = next(name for _, end, name in places if end > data_bytes)
        raise _broken(where, f"the file ends within {cut}: {data_bytes} of {end} bytes of data are there")
    if end < data_bytes:
        raise _broken(where, f"{data_bytes - end} bytes behind the last tensor, {last}")


def _broken(where: str, got: str) -> WeightsError:
    return WeightsError(
        "not a whole safetensors file",
        where=where,
        got=got,
        next_step="fetch the file again; an interrupted copy looks like this",
    )
