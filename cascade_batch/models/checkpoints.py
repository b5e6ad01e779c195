"""Weights from safetensors files into networks: strict, memory-mapped, no double allocation.

A network is built on the meta device (shapes only), its keys and shapes are compared with the files' before
a byte of weights is read, and the tensors are assigned. A missing, unexpected, doubled or mis-shaped key is
an error that names it. Nothing is ever read by pickle.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from cascade_batch.errors import WeightsError
from cascade_batch.models.config import parse_stage_a, parse_unet
from cascade_batch.models.stage_a import StageA
from cascade_batch.models.stage_b import StageB
from cascade_batch.models.stage_c import StageC
from cascade_batch.models.text import build_text_tower, restore_buffers

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERATED_EXTRAS = {
    "text_model.embeddings.position_ids": "a constant that transformers wrote until 4.31",
}
"""Keys a checkpoint may hold that no network has, each with the reason."""
SHOWN_KEYS = 5

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class PartFiles:
    """One part of a model on the local disk; `files` are its safetensors, none for a tokenizer."""

    config: dict
    folder: Path
    files: tuple[Path, ...]


def load_stage_c(config: dict, files: Sequence[Path], dtype: str, device: str) -> StageC:
    """Stage C in float32 or bfloat16. Raises WeightsError for float16 and for files that do not fit."""
    if dtype == "float16":
        raise WeightsError(
            "Stage C cannot run in float16",
            got=dtype,
            expected="bfloat16 or float32",
            next_step="its hidden states overflow float16 and images turn black; use bfloat16",
        )
    parsed = parse_unet(config, _where(files))
    return _load(lambda: StageC(parsed), files, dtype, device)


def load_stage_b(config: dict, files: Sequence[Path], dtype: str, device: str) -> StageB:
    """Stage B in any of the three dtypes. Raises WeightsError for files that do not fit."""
    parsed = parse_unet(config, _where(files))
    return _load(lambda: StageB(parsed), files, dtype, device)


def load_stage_a(config: dict, files: Sequence[Path], dtype: str, device: str) -> StageA:
    """Stage A in any of the three dtypes. Raises WeightsError for files that do not fit."""
    parsed = parse_stage_a(config, _where(files))
    return _load(lambda: StageA(parsed), files, dtype, device)


def load_text_encoder(
    config: dict, files: Sequence[Path], dtype: str, device: str
) -> CLIPTextModelWithProjection:
    """The CLIP text tower with projection. Raises WeightsError for files that do not fit."""
    tower = _load(lambda: build_text_tower(config), files, dtype, device)
    restore_buffers(tower, device)
    return tower


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer of a folder, read locally. Raises WeightsError if it cannot be read."""
    try:
        if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.json")):
            raise OSError("none of its files is there")  # transformers would make an empty one
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as cause:
        raise WeightsError(
            "the tokenizer cannot be read",
            where=str(folder),
            got=cause,
            expected="tokenizer.json, or vocab.json and merges.txt",
        ) from cause


def _load(build: Callable[[], Network], files: Sequence[Path], dtype: str, device: str) -> Network:
    with torch.device("meta"):
        network = build()
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    tensors: dict[str, torch.Tensor] = {}
    try:
        _check_keys(shapes, _stored_shapes(files), _where(files))
        for path in files:
            with safe_open(path, framework="pt") as stored:
                for name in stored.keys() & shapes.keys():
                    tensors[name] = _cast(stored.get_tensor(name), dtype, device)
    except (SafetensorError, OSError) as cause:
        raise WeightsError(
            "the weights cannot be read",
            where=_where(files),
            got=cause,
            next_step="fetch the file again; an interrupted copy looks like this",
        ) from cause
    network.load_state_dict(tensors, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _cast(tensor: torch.Tensor, dtype: str, device: str) -> torch.Tensor:
    return tensor.to(device, DTYPES[dtype] if tensor.is_floating_point() else tensor.dtype)


def _stored_shapes(files: Sequence[Path]) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    for path in files:
        with safe_open(path, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118, a safetensors handle is no mapping
                if name in shapes:
                    raise WeightsError("a key is stored twice", where=str(path), got=name)
                shapes[name] = stored.get_slice(name).get_shape()
    return {name: shape for name, shape in shapes.items() if name not in TOLERATED_EXTRAS}


def _check_keys(expected: dict[str, list[int]], stored: dict[str, list[int]], where: str) -> None:
    shared = expected.keys() & stored.keys()
    faults = {
        "missing": [name for name in expected if name not in stored],
        "unexpected": [name for name in stored if name not in expected],
        "of another shape": [
            f"{name} {stored[name]}, not {expected[name]}"
            for name in expected
            if name in shared and stored[name] != expected[name]
        ],
    }
    found = [_listed(fault, names) for fault, names in faults.items() if names]
    if found:
        raise WeightsError(
            "the weights do not fit the network",
            where=where,
            got="; ".join(found),
            expected=f"exactly the {len(expected)} keys that config.json describes",
            next_step="is this the right part, and the config.json that belongs to it?",
        )


def _listed(fault: str, names: list[str]) -> str:
    rest = len(names) - SHOWN_KEYS
    shown = ", ".join(names[:SHOWN_KEYS]) + (f" and {rest} more" if rest > 0 else "")
    return f"{len(names)} {fault}: {shown}"


def _where(files: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in files)
