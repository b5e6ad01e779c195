"""Write the evaluation's prompt table.  Run:  python -m jobs.evaluate.prompts

Six tasks with GenEval's names, 100 prompts each, out of the world that `mini` is trained on and worded like
its captions. In four tasks some prompts, at most every second one, ask for a combination that training never shows;
everything else they ask for has been shown. `sampled.parquet` holds six prompts of each task, for CI.
"""

import json
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.evaluate.scenes import MAKERS, Scenes
from jobs.train_mini.captions import caption
from jobs.train_mini.drawing import draw
from jobs.train_mini.world import COLOURS, SIZES, Scene, Thing

PROMPTS = Path(__file__).parent / "prompts.parquet"
SAMPLED = Path(__file__).parent / "sampled.parquet"
PER_TASK = 100
SAMPLED_PER_TASK = 6
SEED = 2011


@dataclass(frozen=True)
class Prompt:
    id: str
    prompt: str
    task: str
    held_out: bool
    """Asks for a combination of colour, count or relation with shapes that is not in the training data."""
    scene: Scene
    """A picture that would be right."""


def expectation(scene: Scene) -> dict[str, Any]:
    """What the caption of a scene asks for, in the form that `judging` reads."""
    return {
        "things": [
            {
                "shape": thing.shape,
                "count": len(thing.centres),
                "colour": thing.colour if thing.said_colour else None,
                "size": thing.size if thing.said_size else None,
                "area": area_limits(thing.shape, thing.size) if thing.said_size else None,
            }
            for thing in scene.things
        ],
        "relation": scene.relation,
        "place": scene.place,
        "ground": scene.ground if scene.said_ground else None,
    }


def area_limits(shape: str, size: str) -> list[float]:
    """Least and most area of a shape for which a size word holds; between two sizes lies the middle radius."""
    radii = list(SIZES.values())
    middles = [(a + b) / 2 for a, b in pairwise(radii)]
    areas = [0.0, *(_unit_area(shape) * radius**2 for radius in middles), 1.0]
    nth = list(SIZES).index(size)
    return [round(area, 5) for area in areas[nth : nth + 2]]


@cache
def _unit_area(shape: str) -> float:
    """Area of a shape of radius 1."""
    thing = Thing(shape, "black", "large", ((0.5, 0.5),), True, True, 1.0)
    brightness = draw(Scene((thing,), "white", "plain", True, "one"), 512, 512).mean()
    white, black = (COLOURS[name][0] / 255 for name in ("white", "black"))
    return float((white - brightness) / (white - black)) / thing.radius**2


def make_prompts() -> list[Prompt]:
    """All prompts, task by task; the same at every call."""
    return [prompt for task, make in MAKERS.items() for prompt in _of_task(task, make(Random(SEED)))]


def _of_task(task: str, scenes: Scenes) -> list[Prompt]:
    """Distinct prompts; a scene whose wordings are used up gives way to the next."""
    rng, prompts = Random(f"{SEED} {task}"), {}
    for held_out, scene in scenes:
        if len(prompts) == PER_TASK:
            break
        text = caption(scene, rng)
        if text not in prompts:
            name = f"{task.replace(' ', '-')}/{len(prompts):03d}"
            prompts[text] = Prompt(name, text, task, held_out, scene)
    return list(prompts.values())


def prompts_table(prompts: list[Prompt]) -> pa.Table:
    return pa.table(
        {
            "id": [prompt.id for prompt in prompts],
            "prompt": [prompt.prompt for prompt in prompts],
            "task": [prompt.task for prompt in prompts],
            "held_out": [prompt.held_out for prompt in prompts],
            "expects": [json.dumps(expectation(prompt.scene)) for prompt in prompts],
        }
    )


def sampled(prompts: list[Prompt]) -> list[Prompt]:
    """Six prompts of each task, three of them held out where the task has such."""
    rng, drawn = Random(SEED), []
    for task in MAKERS:
        seen, unseen = (
            [p for p in prompts if p.task == task and p.held_out is kind] for kind in (False, True)
        )
        held_out = rng.sample(unseen, SAMPLED_PER_TASK // 2 if unseen else 0)
        drawn += held_out + rng.sample(seen, SAMPLED_PER_TASK - len(held_out))
    return drawn


def main() -> None:
    prompts = make_prompts()
    pq.write_table(prompts_table(prompts), PROMPTS)
    pq.write_table(prompts_table(sampled(prompts)), SAMPLED)


if __name__ == "__main__":
    main()
