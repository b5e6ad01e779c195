"""Write the trained stages as a model folder in the published layout, half precision.

`python -m jobs.train_mini.publish --out build/mini --model cascade_batch/embedded/mini` takes the averaged
weights of each stage, finished or not.
"""

import argparse
from pathlib import Path

import torch

from jobs.model_folder import write_json, write_model
from jobs.train_mini.captions import KNOWN_WORDS, PLURALS
from jobs.train_mini.networks import new_stage_b, new_stage_c, new_text_tower, tower_config
from jobs.train_mini.progress import averaged
from jobs.train_mini.stage_a import trained_stage_a
from jobs.train_mini.tokenizer import make_tokenizer
from jobs.train_mini.world import SHAPES


def publish(out: Path, model: Path) -> None:
    tokenizer = make_tokenizer()
    stage_c, tower, stage_b = new_stage_c(), new_text_tower(len(tokenizer)), new_stage_b()
    print("stage C at step", averaged(out / "stage_c.pt", stage_c, tower))
    print("stage B at step", averaged(out / "refined.pt", stage_b))
    networks = (stage_c, stage_b, trained_stage_a(out))
    write_model(model, tokenizer, tower, tower_config(len(tokenizer)), networks, torch.float16)
    write_json(model / "world.json", world())
    size = sum(path.stat().st_size for path in model.rglob("*.safetensors"))
    print(f"{size / 1e6:.1f} MB of safetensors")


def world() -> dict:
    """What `cascade_batch.plan.worlds` warns by."""
    shapes = sorted({*SHAPES, *(PLURALS.get(shape, shape + "s") for shape in SHAPES)})
    about = "flat shapes in plain colours, such as red circles and blue stars"
    return {"about": about, "words": sorted(KNOWN_WORDS), "nouns": shapes}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/mini"))
    parser.add_argument("--model", type=Path, default=Path("cascade_batch/embedded/mini"))
    arguments = parser.parse_args()
    publish(arguments.out, arguments.model)
