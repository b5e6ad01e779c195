"""Mutated checkpoints: headers, shard indexes and configs. Each is a clear error, or what its file really says.

What a file says is asked of the safetensors library; of a config, that the network built has the very values.
"""

import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, load_file, save_file

from cascade_batch.engine.loading.checkpoints import load_stage_a, outline
from cascade_batch.errors import CascadeError
from cascade_batch.model.config import _frozen
from cascade_batch.settings import ModelSpec
from cascade_batch.storage import Storage
from cascade_batch.weights import EMBEDDED, Part, locate
from cascade_batch.weights.folders import folder_part
from cascade_batch.weights.local import local_files
from cascade_batch.weights.part import CONFIG, read_config
from cascade_batch.weights.published_settings import check_settings
from tests.weights.official import write_prior_repository

TINY = EMBEDDED / "tiny"
UNET = "diffusion_pytorch_model.safetensors"
HEADERS, CONFIGS, INDEXES = 600, 250, 120
DEEP = "[" * 100_000 + "]" * 100_000
ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 3, 7, 2**31, 2**63 - 1, 2**64, 10**30, 1.5, -0.0, 1e300, float("nan"),
    float("inf"), "", "4", "a", "\ud800", "é" * 300, [], [1], [[]], [-1], [1, 1, 1, 1], ["a"], [None], {}, {"a": 1},
    [2**62, 2**62], [0] * 70, [1e3], [[[[1]]]], {"__metadata__": {}},
)  # fmt: skip


class Count:
    """How many inputs were tried and accepted; anything but our errors fails the test with the input's number."""

    def __init__(self) -> None:
        self.inputs = self.accepted = 0

    def tried(self, read: Callable[[], Any]) -> Any:
        """What was read, None for a clear error."""
        self.inputs += 1
        message, value = "", None
        try:
            value = read()
            self.accepted += 1
        except CascadeError as refused:
            message = str(refused)
            message.encode()  # as it is when it is printed
        except Exception as crash:
            raise AssertionError(f"input {self.inputs}: {crash!r}") from crash
        assert len(message) < 5000, f"input {self.inputs}: an endless message"
        return value

    def told(self, kind: str) -> str:
        return f"{kind}: {self.inputs} inputs, {self.accepted} of them read, 0 crashes, 0 silent wrong values"


def test_headers(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    rng, count = random.Random(7), Count()
    whole = (TINY / "vqgan" / UNET).read_bytes()
    config = json.loads((TINY / "vqgan" / "config.json").read_text())
    path = tmp_path / "a.safetensors"
    for _ in range(HEADERS):
        data = rng.choice(HEADER_MUTATIONS)(whole, rng)
        path.write_bytes(data)
        given = config if rng.random() < 0.8 else None
        ours = count.tried(lambda given=given: load_stage_a(given, [path], "float32", "cpu").state_dict())
        if ours is not None:
            assert_equal_tensors(ours, load(data), count.inputs)
    assert 0 < count.accepted < count.inputs
    record_property("fuzz", count.told("headers"))


def assert_equal_tensors(ours: dict, theirs: dict, number: int) -> None:
    for key, tensor in theirs.items():
        same = torch.equal(ours[key].float().nan_to_num(), tensor.float().nan_to_num())
        assert same, f"input {number}: {key} is not what the file says"
    assert ours.keys() == theirs.keys(), f"input {number}"


def split(data: bytes) -> tuple[dict, bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header: dict | str | bytes, body: bytes) -> bytes:
    text = json.dumps(header) if isinstance(header, dict) else header
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw + body


def header_value(data: bytes, rng: random.Random) -> bytes:
    """One field of one tensor."""
    header, body = split(data)
    entry = header[rng.choice([key for key in header if key != "__metadata__"])]
    entry[rng.choice(["dtype", "shape", "data_offsets", "more"])] = rng.choice(ODD)
    return joined(header, body)


def header_number(data: bytes, rng: random.Random) -> bytes:
    """One number of a shape or a place, a little off or far."""
    header, body = split(data)
    entry = header[rng.choice([key for key in header if key != "__metadata__"])]
    numbers = entry[rng.choice(["shape", "data_offsets"])]
    if numbers:
        numbers[rng.randrange(len(numbers))] += rng.choice([-1, 1, 4, -4, 2**31, 2**64, -(2**40)])
    return joined(header, body)


def header_places(data: bytes, rng: random.Random) -> bytes:
    """Places that overlap, or are exchanged; equal shapes may exchange theirs and remain a file."""
    header, body = split(data)
    one, other = rng.sample([key for key in header if key != "__metadata__"], 2)
    places = header[one]["data_offsets"], header[other]["data_offsets"]
    header[one]["data_offsets"] = places[1]
    header[other]["data_offsets"] = rng.choice(places)
    return joined(header, body)


def header_keys(data: bytes, rng: random.Random) -> bytes:
    header, body = split(data)
    key = rng.choice([key for key in header if key != "__metadata__"])
    kind = rng.randrange(5)
    if kind == 0:
        header[rng.choice(["", "\ud800", "a" * 1000, "vquantizer.embedding.weight", key.upper()])] = (
            header.pop(key)
        )
    elif kind == 1:
        header[key] = rng.choice(ODD)
    elif kind == 2:
        header["__metadata__"] = rng.choice(ODD)
    elif kind == 3:
        twice = json.dumps({key: header[key]})[1:-1]
        return joined(json.dumps(header)[:-1] + "," + twice + "}", body)
    else:
        header[f"down_blocks.{10**12}.0.mapper.weight"] = header.pop(key)
    return joined(header, body)


def header_order(data: bytes, rng: random.Random) -> bytes:
    """Another order of names, blanks and dtypes of equal size: all of them files, the last with other values."""
    header, body = split(data)
    names = list(header)
    rng.shuffle(names)
    header = {name: header[name] for name in names}
    if rng.random() < 0.5:
        entry = header[rng.choice([name for name in names if name != "__metadata__"])]
        entry["dtype"] = {"F32": "I32", "I64": "F64"}[entry["dtype"]]
    return joined(json.dumps(header) + " " * rng.randrange(9), body)


def header_text(data: bytes, rng: random.Random) -> bytes:
    header, body = split(data)
    text = json.dumps(header)
    odd = [
        DEEP, '{"a":' + DEEP + "}", " " + text, text + "}", text[:-1], "", "null", "{}", "[]", text.encode("utf-16"),
        b"\xff" + text.encode(), b"\xef\xbb\xbf" + text.encode(), text.replace("F32", "F\x00"),
        text.replace("[", "[" + "9" * 5000 + ",", 1), text.replace("0", "0.0", 1), text.replace("0", "1e2", 1),
        text.replace("{", "{" * 50, 1),
    ]  # fmt: skip
    return joined(rng.choice(odd), body)


def length_field(data: bytes, rng: random.Random) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    wrong = rng.choice(
        [0, 1, length - 1, length + 1, len(data), 2**31, 2**63, 2**64 - 1, rng.randrange(2**64)]
    )
    return struct.pack("<Q", wrong) + data[8:]


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))] + bytes(rng.choice([0, 0, 3]))


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Bits of the header, of one of its bytes or a few."""
    changed, end = bytearray(data), 8 + struct.unpack("<Q", data[:8])[0]
    for _ in range(rng.choice([1, 1, 1, 5])):
        changed[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(changed)


HEADER_MUTATIONS = (
    header_value, header_number, header_places, header_keys, header_order, header_text, length_field, cut, flipped,
)  # fmt: skip


def test_configs(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    rng, count = random.Random(8), Count()
    parts = {"stage_c": "prior", "stage_b": "decoder", "stage_a": "vqgan", "text_encoder": "text_encoder"}
    for _ in range(CONFIGS):
        part = rng.choice(list(parts))
        folder, stored = TINY / parts[part], tmp_path / parts[part]
        stored.mkdir(exist_ok=True)
        config = json.loads((folder / "config.json").read_text())
        key, value = rng.choice(list(config)), rng.choice(ODD)
        entry = config[key]
        if isinstance(entry, list) and rng.random() < 0.5:
            entry[rng.randrange(len(entry))] = value
            value = entry
        config[key] = value
        (stored / "config.json").write_text(json.dumps(config))
        files = [path for path in folder.iterdir() if path.suffix == ".safetensors"]
        located = Part(part, str(stored), (), (CONFIG,))
        built = count.tried(
            lambda part=part, files=files, located=located: outline(part, read_config(located), files)
        )
        if built is not None and not key.startswith("_") and hasattr(built.network.config, key):
            was = getattr(built.network.config, key)
            assert key in UNREAD or _frozen(value) == was, (
                f"input {count.inputs}: {key} {value!r} became {was!r}"
            )
    assert 0 < count.accepted < count.inputs
    record_property("fuzz", count.told("configs"))


UNREAD = ("architectures", "model_type")
"""Names that transformers sets itself."""


def test_indexes(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    rng, count = random.Random(9), Count()
    folder = tmp_path / "vqgan"
    folder.mkdir()
    (folder / "config.json").write_bytes((TINY / "vqgan" / "config.json").read_bytes())
    whole = load_file(TINY / "vqgan" / UNET)
    keys = sorted(whole)
    for number in (1, 2):
        save_file({key: whole[key] for key in keys[number - 1 :: 2]}, folder / f"{number}.safetensors")
    places = {key: f"{i % 2 + 1}.safetensors" for i, key in enumerate(keys)}
    for _ in range(INDEXES):
        (folder / f"{UNET}.index.json").write_bytes(mutated_index(places, rng))
        ours = count.tried(lambda: loaded(folder))
        if ours is not None:
            assert_equal_tensors(ours, whole, count.inputs)
    assert 0 < count.accepted < count.inputs
    record_property("fuzz", count.told("indexes"))


def loaded(folder: Path) -> dict:
    files = local_files(folder_part("stage_a", Storage(str(folder)), None))
    return load_stage_a(files.config, files.files, "float32", "cpu").state_dict()


def mutated_index(places: dict[str, str], rng: random.Random) -> bytes:
    content: dict[str, Any] = {"metadata": {"total_size": 1}, "weight_map": dict(places)}
    kind, key = rng.randrange(7), rng.choice(list(places))
    if kind == 0:
        content["weight_map"][key] = rng.choice(ODD)
    elif kind == 1:
        content["weight_map"] = rng.choice(ODD)
    elif kind == 2:
        content["weight_map"][key] = rng.choice(
            ["../1.safetensors", "/1.safetensors", "1.bin", "3.safetensors"]
        )
    elif kind == 3:
        content["weight_map"] = dict.fromkeys(places, rng.choice(["1.safetensors", "2.safetensors"]))
    elif kind == 4:
        content["metadata"] = rng.choice(ODD)
    elif kind == 5:
        return rng.choice([DEEP.encode(), b"", b"\xff\xfe", b"[]", json.dumps(content).encode("utf-16")])
    text = json.dumps(content)
    return (text[: rng.randrange(len(text))] if kind == 6 else text).encode("utf-8", "surrogatepass")


def test_settings_of_any_kind(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Of scheduler, pipeline and picture processor: the published values pass, anything else is refused."""
    rng, count = random.Random(10), Count()
    folder = write_prior_repository(tmp_path / "prior")
    shutil.copytree(TINY / "decoder", folder / "decoder")
    shutil.copytree(TINY / "vqgan", folder / "vqgan")
    parts = locate(ModelSpec(name=str(folder)), ["image_encoder"])
    files = [folder / f"{name}.json" for name in ("scheduler/scheduler_config", "model_index")]
    files.append(folder / "feature_extractor" / "preprocessor_config.json")
    for _ in range(INDEXES):
        path = rng.choice(files)
        before = path.read_text()
        content = json.loads(before)
        key, value = (
            rng.choice([key for key in content if not key.startswith("_")] + ["strange"]),
            rng.choice(ODD),
        )
        published, content[key] = content.get(key), value
        path.write_text(json.dumps(content))
        passed = count.tried(lambda: (check_settings(parts), True)) is not None
        is_component = path.name == "model_index.json" and isinstance(value, list) and len(value) == 2
        is_published = value == published and isinstance(value, bool) == isinstance(published, bool)
        assert passed == (value is None or is_published or is_component), f"{path.name}: {key} = {value!r}"
        path.write_text(before)
    record_property("fuzz", count.told("settings"))
