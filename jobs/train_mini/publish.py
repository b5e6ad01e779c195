"""Write the trained stages as a model folder in the published layout, half precision.

`python -m jobs.train_mini.publish --out build/mini --model cascade_batch/embedded/mini` takes the averaged weights of
each stage, finished or not.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from cascade_batch.models.config import StageAConfig, UNetConfig
from jobs.train_mini.captions import KNOWN_WORDS, PLURALS
from jobs.train_mini.networks import new_stage_b, new_stage_c, new_text_tower, text_config
from jobs.train_mini.stage_a import trained_stage_a
from jobs.train_mini.tokenizer import make_tokenizer
from jobs.train_mini.world import SHAPES

WEIGHTS = "diffusion_pytorch_model.safetensors"


def publish(out: Path, model: Path) -> None:
    tokenizer = make_tokenizer()
    stage_c, tower, stage_b = new_stage_c(), new_text_tower(len(tokenizer)), new_stage_b()
    print("stage C at step", averaged(out / "stage_c.pt", stage_c, tower))
    print("stage B at step", averaged(out / "stage_b.pt", stage_b))
    tokenizer.save_pretrained(model / "tokenizer")
    save_part(model / "prior", WEIGHTS, stage_c, published(stage_c.config, "StableCascadeUNet"))
    save_part(model / "decoder", WEIGHTS, stage_b, published(stage_b.config, "StableCascadeUNet"))
    stage_a = trained_stage_a(out)
    save_part(model / "vqgan", WEIGHTS, stage_a, published(stage_a.config, "PaellaVQModel"))
    save_part(model / "text_encoder", "model.safetensors", tower, text_config(len(tokenizer)))
    scheduler = {"_class_name": "DDPMWuerstchenScheduler", "s": 0.008, "scaler": 1.0}
    write_json(model / "scheduler" / "scheduler_config.json", scheduler)
    shapes = sorted({*SHAPES, *(PLURALS.get(shape, shape + "s") for shape in SHAPES)})
    about = "flat shapes in plain colours, such as red circles and blue stars"
    write_json(model / "world.json", {"about": about, "words": sorted(KNOWN_WORDS), "nouns": shapes})
    size = sum(path.stat().st_size for path in model.rglob("*.safetensors"))
    print(f"{size / 1e6:.1f} MB of safetensors")


def averaged(checkpoint: Path, *networks: nn.Module) -> int:
    """Put a checkpoint's averaged weights into the networks; the step it was taken at."""
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    for network, weights in zip(networks, state["average"], strict=True):
        for parameter, weight in zip(network.parameters(), weights, strict=True):
            parameter.data.copy_(weight)
    return state["step"]


def save_part(folder: Path, name: str, network: nn.Module, config: dict) -> None:
    write_json(folder / "config.json", config)
    tensors = {
        key: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for key, tensor in network.state_dict().items()
    }
    save_file(tensors, folder / name, metadata={"format": "pt"})
    (folder / name).chmod(0o644)


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def published(config: UNetConfig | StageAConfig, class_name: str) -> dict:
    """A config as its `config.json`; the usual prediction type goes without saying."""
    entries = asdict(config)
    if entries.get("prediction_type") == "epsilon":
        del entries["prediction_type"]
    return {"_class_name": class_name, **entries}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/mini"))
    parser.add_argument("--model", type=Path, default=Path("cascade_batch/embedded/mini"))
    arguments = parser.parse_args()
    publish(arguments.out, arguments.model)
