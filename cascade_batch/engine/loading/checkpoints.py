"""Weights from safetensors files into networks: strict, and never twice in memory.

Files may be of either published layout, or one that holds several parts (`cascade_batch.model.layouts`). A network is
built on the meta device (shapes only), its keys and shapes are compared with the files' before a byte of weights is
read, and the tensors are assigned. A missing, unexpected, doubled or mis-shaped key, or one of a dtype that holds
no weights, is an error that names it. Nothing is ever read by pickle.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from cascade_batch.engine.loading.stored import listed, open_part, shapes_of, tensors_of
from cascade_batch.engine.networks.controlnet import ControlNet
from cascade_batch.engine.networks.effnet import EffnetEncoder
from cascade_batch.engine.networks.image_encoder import ImageEncoder, build_image_tower, restore_positions
from cascade_batch.engine.networks.stage_a import StageA
from cascade_batch.engine.networks.stage_b import StageB
from cascade_batch.engine.networks.stage_c import StageC
from cascade_batch.engine.networks.text import build_text_tower, restore_buffers
from cascade_batch.errors import WeightsError
from cascade_batch.model.config import parse_controlnet, parse_effnet, parse_stage_a, parse_unet
from cascade_batch.model.config_checks import check_counts, clip_config
from cascade_batch.model.dtypes import refuse_float16
from cascade_batch.model.layouts import PartHeader

if TYPE_CHECKING:  # seconds of a start, which pool BA has no use for
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FLOAT8 = ("F8_E4M3", "F8_E5M2")
READABLE = ("F32", "F16", "BF16", "F64", *FLOAT8)
"""Stored dtypes that hold weights; float8 does where no scales lie beside it."""

Network = TypeVar("Network", bound=nn.Module)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outline:
    """A network on the meta device, without weights, and the stored part that fits it."""

    network: nn.Module
    stored: PartHeader


def outline(part: str, config: dict | None, files: Sequence[Path]) -> Outline:
    """A part's network, built and compared with its files' headers. Raises WeightsError for files that do not fit."""
    stored = open_part(files, part)
    settings = stored.config(config)
    check_counts(settings, len(stored.merged.entries), stored.where)
    network = _built(_BUILD[part], settings, stored.where)
    _check_keys(shapes_of(network), stored.found.shapes, stored.where)
    _check_dtypes(network, stored)
    return Outline(network, stored)


def load_stage_c(config: dict | None, files: Sequence[Path], dtype: str, device: str) -> StageC:
    """Stage C in float32 or bfloat16. Raises WeightsError for float16 and for files that do not fit."""
    refuse_float16(dtype, WeightsError)
    return _load(StageC, outline("stage_c", config, files), dtype, device)


def load_stage_b(config: dict | None, files: Sequence[Path], dtype: str, device: str) -> StageB:
    """Stage B in any of the three dtypes. Raises WeightsError for files that do not fit."""
    return _load(StageB, outline("stage_b", config, files), dtype, device)


def load_stage_a(config: dict | None, files: Sequence[Path], dtype: str, device: str) -> StageA:
    """Stage A in any of the three dtypes. Raises WeightsError for files that do not fit."""
    return _load(StageA, outline("stage_a", config, files), dtype, device)


def load_text_encoder(
    config: dict | None, files: Sequence[Path], dtype: str, device: str
) -> "CLIPTextModelWithProjection":
    """The CLIP text tower with projection. Raises WeightsError for files that do not fit."""
    from transformers import CLIPTextModelWithProjection

    tower = _load(CLIPTextModelWithProjection, outline("text_encoder", config, files), dtype, device)
    restore_buffers(tower, device)
    return tower


def load_image_encoder(config: dict | None, files: Sequence[Path], dtype: str, device: str) -> ImageEncoder:
    """The CLIP vision tower with projection. Raises WeightsError for files that do not fit."""
    from transformers import CLIPVisionModelWithProjection

    tower = _load(CLIPVisionModelWithProjection, outline("image_encoder", config, files), dtype, device)
    restore_positions(tower, device)
    return ImageEncoder(tower)


def load_effnet_encoder(files: Sequence[Path], dtype: str, device: str) -> EffnetEncoder:
    """The effnet encoder; its files tell its sizes. Raises WeightsError for files that do not fit."""
    return _load(EffnetEncoder, outline("effnet_encoder", None, files), dtype, device)


def load_controlnet(files: Sequence[Path], dtype: str, device: str) -> ControlNet:
    """A ControlNet; its files tell its kind and sizes. Raises WeightsError for files that do not fit."""
    return _load(ControlNet, outline("controlnet", None, files), dtype, device)


def load_tokenizer(folder: Path) -> "CLIPTokenizer":
    """The tokenizer of a folder, read locally. Raises WeightsError if it cannot be read."""
    from transformers import CLIPTokenizer

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


_BUILD: Mapping[str, Callable[[dict, str], nn.Module]] = {
    "stage_c": lambda config, where: StageC(parse_unet(config, where)),
    "stage_b": lambda config, where: StageB(parse_unet(config, where)),
    "stage_a": lambda config, where: StageA(parse_stage_a(config, where)),
    "text_encoder": lambda config, where: build_text_tower(clip_config(config, where)),
    "image_encoder": lambda config, where: build_image_tower(clip_config(config, where)),
    "effnet_encoder": lambda config, where: EffnetEncoder(parse_effnet(config, where)),
    "controlnet": lambda config, where: ControlNet(parse_controlnet(config, where)),
}


def _built(build: Callable[[dict, str], nn.Module], config: dict, where: str) -> nn.Module:
    """On the meta device. Whatever torch or transformers raise about numbers that make no network is a WeightsError."""
    try:
        with torch.device("meta"):
            return build(config, where)
    except WeightsError:
        raise
    except Exception as cause:
        raise WeightsError(
            "config.json describes no network", where=where, got=f"{type(cause).__name__}: {cause}"
        ) from cause


def _load(kind: type[Network], outlined: Outline, dtype: str, device: str) -> Network:
    assert isinstance(outlined.network, kind)
    network, stored = outlined.network, outlined.stored
    _note_float8(stored, dtype)
    tensors = {name: _cast(tensor, dtype, device) for name, tensor in tensors_of(stored)}
    network.load_state_dict(tensors, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _check_dtypes(network: nn.Module, stored: PartHeader) -> None:
    for name, tensor in network.state_dict().items():
        readable = READABLE if tensor.is_floating_point() else ("I64", "I32")
        if stored.dtype(name) not in readable:
            raise WeightsError(
                "weights of a dtype that cannot be read",
                where=stored.where,
                got=f"{name} in {stored.dtype(name)}",
                expected=" or ".join(readable),
                next_step="fetch the file in float32, bfloat16 or float16",
            )


def _note_float8(stored: PartHeader, dtype: str) -> None:
    kinds = sorted({stored.dtype(name) for name in stored.found.sources} & set(FLOAT8))
    if kinds:
        log.warning(
            "%s is stored as %s and used as %s: what float8 rounded off stays lost; %s",
            *(stored.found.part, " and ".join(kinds), dtype, stored.where),
        )


def _cast(tensor: torch.Tensor, dtype: str, device: str) -> torch.Tensor:
    # A copy, because the file's memory map is not aligned: where a tensor lies in a file must not change how a
    # matrix product rounds, or the same weights would draw other bits from the other layout.
    return tensor.to(device, DTYPES[dtype] if tensor.is_floating_point() else tensor.dtype, copy=True)


def _check_keys(
    expected: Mapping[str, tuple[int, ...]], stored: Mapping[str, tuple[int, ...]], where: str
) -> None:
    shared = expected.keys() & stored.keys()
    faults = {
        "missing": [name for name in expected if name not in stored],
        "unexpected": [name for name in stored if name not in expected],
        "of another shape": [
            f"{name} {list(stored[name])}, not {list(expected[name])}"
            for name in expected
            if name in shared and stored[name] != expected[name]
        ],
    }
    found = [listed(fault, names) for fault, names in faults.items() if names]
    if found:
        raise WeightsError(
            "the weights do not fit the network",
            where=where,
            got="; ".join(found),
            expected=f"exactly the {len(expected)} keys that config.json describes",
            next_step="is this the right part, and the config.json that belongs to it?",
        )
