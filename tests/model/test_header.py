"""A safetensors file is read as the library reads it, or refused in one line that says which tensor."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from cascade_batch.errors import WeightsError
from cascade_batch.model.layouts import Entry, Header, read_header

TENSORS = {"a.weight": torch.randn(3, 5), "b.bias": torch.randn(7).bfloat16(), "c.steps": torch.tensor(9)}


def header_of(data: bytes) -> Header:
    return read_header(lambda start, end: data[start:end], len(data), "some.safetensors")


def test_names_dtypes_shapes_and_notes() -> None:
    header = header_of(save(TENSORS, metadata={"format": "pt"}))
    assert header.notes == {"format": "pt"}
    assert header.entries == {
        "a.weight": Entry("F32", (3, 5), 60),
        "b.bias": Entry("BF16", (7,), 14),
        "c.steps": Entry("I64", (), 8),
    }
    assert header_of(save({})).entries == {}


def rewritten(change: Callable[[dict], object]) -> bytes:
    """The file with another header, its data as it was."""
    data = save(TENSORS)
    (length,) = struct.unpack("<Q", data[:8])
    content = json.loads(data[8 : 8 + length])
    change(content)
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (b"\x00" * 6, "6 bytes"),
        (pickle.dumps(TENSORS), "pickle"),
        (b"PK\x03\x04" + b"\x00" * 100, "pickle"),
        (struct.pack("<Q", 2**60) + b"{}", "should be 1152921504606846976"),
        (struct.pack("<Q", 6) + b'{"a":\xff', "no JSON"),
        (struct.pack("<Q", 2) + b"[]", "no JSON object"),
        (save(TENSORS)[:-3], "the file ends within"),
        (save(TENSORS) + b"\x00", "1 bytes behind the last tensor"),
        (rewritten(lambda c: c["a.weight"].update(shape=[3, 6])), r"a\.weight: F32 \[3, 6\] is 72 bytes"),
        (rewritten(lambda c: c["a.weight"].update(dtype="F33")), r"a\.weight of dtype 'F33'"),
        (rewritten(lambda c: c["a.weight"].update(shape=[-3, -5])), r"a\.weight of shape"),
        (rewritten(lambda c: c["a.weight"].pop("shape")), r"a\.weight"),
        (rewritten(lambda c: c.update({"x": c["a.weight"]})), "begins at byte"),
        (rewritten(lambda c: c.pop("b.bias")), "begins at byte|behind the last"),
        (rewritten(lambda c: c.update({"__metadata__": {"a": 1}})), "notes"),
    ],
)
def test_what_is_no_whole_file_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as refused:
        header_of(data)
    assert "some.safetensors" in str(refused.value)


def test_a_key_that_is_there_twice_is_named() -> None:
    text = save({"a": torch.zeros(1)}).decode("latin1")
    entry = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    twice = f'{{"a":{entry},"a":{entry}}}'
    with pytest.raises(WeightsError, match="stored twice"):
        header_of(struct.pack("<Q", len(twice)) + twice.encode() + text[-4:].encode("latin1"))


def test_large_files_cost_only_their_header(tmp_path: Path) -> None:
    read: list[int] = []
    data = save({"a": torch.zeros(1 << 20)})

    def counted(start: int, end: int) -> bytes:
        read.append(end - start)
        return data[start:end]

    assert read_header(counted, len(data), "x").shapes == {"a": (1 << 20,)}
    assert sum(read) < 200
