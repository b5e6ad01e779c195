"""A model of our own as a folder in the published diffusers layout: its tokenizer, configs and weights."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from cascade_batch.engine.networks.stage_a import StageA
from cascade_batch.engine.networks.stage_b import StageB
from cascade_batch.engine.networks.stage_c import StageC
from cascade_batch.model.config import StageAConfig, UNetConfig
from cascade_batch.weights.part import SUMS

WEIGHTS = "diffusion_pytorch_model.safetensors"


def write_model(
    folder: Path,
    tokenizer: CLIPTokenizer,
    tower: CLIPTextModelWithProjection,
    tower_config: dict,
    networks: tuple[StageC, StageB, StageA],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Every part below `folder`, floating-point weights as `dtype`."""
    stage_c, stage_b, stage_a = networks
    tokenizer.save_pretrained(folder / "tokenizer")
    _save(folder / "prior" / WEIGHTS, stage_c, _published(stage_c.config, "StableCascadeUNet"), dtype)
    _save(folder / "decoder" / WEIGHTS, stage_b, _published(stage_b.config, "StableCascadeUNet"), dtype)
    _save(folder / "vqgan" / WEIGHTS, stage_a, _published(stage_a.config, "PaellaVQModel"), dtype)
    _save(folder / "text_encoder" / "model.safetensors", tower, tower_config, dtype)
    scheduler = {"_class_name": "DDPMWuerstchenScheduler", "s": 0.008, "scaler": 1.0}
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    for part in ("tokenizer", "prior", "decoder", "vqgan", "text_encoder"):
        write_sums(folder / part)


def write_sums(folder: Path) -> None:
    """What every file of a part's folder hashes to, as `sha256sum` writes it."""
    files = sorted(path for path in folder.iterdir() if path.name != SUMS)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / SUMS).write_text("".join(lines))


def _save(path: Path, network: nn.Module, config: dict, dtype: torch.dtype) -> None:
    write_json(path.parent / "config.json", config)
    tensors = {
        key: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous()
        for key, tensor in network.state_dict().items()
    }
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def _published(config: UNetConfig | StageAConfig, class_name: str) -> dict:
    """A config as its `config.json`; the usual prediction type goes without saying."""
    entries = asdict(config)
    if entries.get("prediction_type") == "epsilon":
        del entries["prediction_type"]
    return {"_class_name": class_name, **entries}


def clip_tokenizer(words: Sequence[str], length: int) -> CLIPTokenizer:
    """Every byte, alone and at a word's end, and each of `words` grown letter by letter, in CLIP's layout."""
    letters = sorted(ByteLevel.alphabet())
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        grown, *rest = [*word[:-1], word[-1] + "</w>"]
        for letter in rest:
            merges[grown, letter] = None
            grown += letter
    pieces = [*letters, *(letter + "</w>" for letter in letters), *(left + right for left, right in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocabulary, list(merges), model_max_length=length)  # pyright: ignore[reportArgumentType]


def text_config(vocabulary: int, width: int, layers: int, heads: int, length: int, widening: int = 4) -> dict:
    """The `config.json` of a CLIP text tower whose start and end tokens close the vocabulary."""
    return {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": widening * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_act": "gelu",
        "max_position_embeddings": length,
        "projection_dim": width,
        "layer_norm_eps": 1e-5,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }
