"""Teach the text tower to read: name every slot of a scene from the pooled state of its caption.

`python -m jobs.train_mini.text --out build/mini`: a minute or two on one core. Stage C trains the tower on from there.
"""

import argparse
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cascade_batch.engine.networks.text import TextEncoder
from jobs.train_mini.captions import caption
from jobs.train_mini.networks import TEXT_WIDTH, new_text_tower
from jobs.train_mini.progress import Journal
from jobs.train_mini.tokenizer import make_tokenizer
from jobs.train_mini.training import seeded
from jobs.train_mini.world import (
    COLOURS,
    PATTERNS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    any_scene,
    training_scene,
)

NONE = "unsaid"
SLOTS = {
    "kind": ("one", "pair", "count", "group"),
    "shape": SHAPES,
    "colour": (*COLOURS, NONE),
    "size": tuple(SIZES),
    "count": (1, 2, 3, 4, 5),
    "other shape": (*SHAPES, NONE),
    "other colour": (*COLOURS, NONE),
    "other size": (*SIZES, NONE),
    "place": (*PLACES, NONE),
    "relation": (*RELATIONS, NONE),
    "ground": (*COLOURS, NONE),
    "pattern": PATTERNS,
}


def slots(scene: Scene) -> dict[str, object]:
    """What a caption of the scene says, slot by slot."""
    first = scene.things[0]
    said: dict[str, object] = {
        "kind": scene.kind,
        "shape": first.shape,
        "colour": first.colour if first.said_colour else NONE,
        "size": first.size,
        "count": len(first.centres),
        "place": scene.place or NONE,
        "relation": scene.relation or NONE,
        "ground": scene.ground if scene.said_ground else NONE,
        "pattern": scene.pattern,
        "other shape": NONE,
        "other colour": NONE,
        "other size": NONE,
    }
    for other in scene.things[1:]:
        said["other shape"], said["other size"] = other.shape, other.size
        said["other colour"] = other.colour if other.said_colour else NONE
    return said


def targets(scenes: list[Scene]) -> dict[str, Tensor]:
    said = [slots(scene) for scene in scenes]
    return {name: torch.tensor([values.index(s[name]) for s in said]) for name, values in SLOTS.items()}


def train(out: Path, steps: int, seed: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    rng, journal = seeded(seed), Journal(out / "text.log")
    tokenizer = make_tokenizer()
    tower = new_text_tower(len(tokenizer))
    encoder = TextEncoder(tower, tokenizer)
    heads = nn.ModuleDict({name: nn.Linear(TEXT_WIDTH, len(values)) for name, values in SLOTS.items()})
    optimizer = torch.optim.AdamW([*tower.parameters(), *heads.parameters()], lr=1e-3, weight_decay=0.01)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for step in range(1, steps + 1):
        scenes = [training_scene(rng) for _ in range(64)]
        pooled = encoder.encode([caption(scene, rng) for scene in scenes]).pooled
        losses = [
            nn.functional.cross_entropy(heads[name](pooled), answers)
            for name, answers in targets(scenes).items()
        ]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
        if step % 100 == 0:
            journal.write(step=step, loss=round(loss.item(), 4))
    journal.write(right=right(encoder, heads, rng))
    tensors = {name: tensor.contiguous() for name, tensor in tower.state_dict().items()}
    save_file(tensors, out / "text.safetensors")


@torch.no_grad()
def right(encoder: TextEncoder, heads: nn.ModuleDict, rng: Random) -> dict[str, float]:
    """Share of each slot named right, held-out scenes among them."""
    scenes = [any_scene(rng) for _ in range(500)]
    pooled = encoder.encode([caption(scene, rng) for scene in scenes]).pooled
    return {
        name: round((heads[name](pooled).argmax(1) == answers).float().mean().item(), 3)
        for name, answers in targets(scenes).items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/mini"))
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.out, arguments.steps, arguments.seed)
