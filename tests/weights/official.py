"""The published repositories in small: the weights of `tiny` in the files that the official ones have."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from cascade_batch.weights import EMBEDDED
from tests.whole_model import write_image_encoder

TINY = EMBEDDED / "tiny"
SCHEDULER = {
    "_class_name": "DDPMWuerstchenScheduler",
    "_diffusers_version": "0.27.0.dev0",
    "s": 0.008,
    "scaler": 1.0,
}
PROCESSOR = {
    "crop_size": {"height": 56, "width": 56},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "CLIPImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 56},
    "use_square_size": False,
}


def write_decoder_repository(folder: Path) -> Path:
    """Stage B in bfloat16 only, Stage A in float32 only."""
    _copy(folder, "vqgan", "text_encoder", "tokenizer")
    _in_bf16(folder, "decoder", "diffusion_pytorch_model")
    _write(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    index = {"_class_name": "StableCascadeDecoderPipeline", "_diffusers_version": "0.27.0.dev0"}
    vqgan = {"vqgan": ["wuerstchen", "PaellaVQModel"]}
    _write(folder / "model_index.json", index | vqgan | {"latent_dim_scale": 10.67})
    return folder


def write_prior_repository(folder: Path) -> Path:
    """Stage C and the text encoder in bfloat16 only."""
    _copy(folder, "tokenizer")
    _in_bf16(folder, "prior", "diffusion_pytorch_model")
    _in_bf16(folder, "text_encoder", "model")
    write_image_encoder(folder / "image_encoder")
    _write(folder / "feature_extractor" / "preprocessor_config.json", PROCESSOR)
    _write(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    index = {"_class_name": "StableCascadePriorPipeline", "_diffusers_version": "0.27.0.dev0"}
    _write(folder / "model_index.json", index | {"resolution_multiple": 42.67})
    return folder


def in_bf16(source: Path, target: Path) -> None:
    """The same weights, rounded."""
    tensors = load_file(source)
    rounded = {key: t.bfloat16() if t.is_floating_point() else t for key, t in tensors.items()}
    save_file(rounded, target, metadata={"format": "pt"})


def _in_bf16(folder: Path, part: str, stem: str) -> None:
    (folder / part).mkdir(parents=True)
    shutil.copyfile(TINY / part / "config.json", folder / part / "config.json")
    in_bf16(TINY / part / f"{stem}.safetensors", folder / part / f"{stem}.bf16.safetensors")


def _copy(folder: Path, *parts: str) -> None:
    for part in parts:
        shutil.copytree(TINY / part, folder / part)


def _write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
