"""Write the tables of published names and shapes: `python -m tests.engine.make_keys`, from diffusers' classes.

A line of a table is "pattern shape", with the numbers that stand for `#` in the pattern; a name without a
layer number has none.
"""

import json
import re
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers.models.unets.unet_stable_cascade import StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from torch import nn

from cascade_batch.model import config
from tests.engine.oracle import their_config

KEYS = Path(__file__).parent / "keys"
UNETS = ("stage_c", "stage_c_lite", "stage_b", "stage_b_lite")
LAYER = re.compile(r"((?:down|up)_blocks\.\d+\.|up_blocks\.|backbone\.[1-6]\.)(\d+)(\..*)")

Shapes = dict[str, list[int]]


def shapes_of(network: nn.Module) -> Shapes:
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}


def compact(shapes: Shapes) -> dict[str, list[int]]:
    table: dict[str, list[int]] = {}
    for name, shape in shapes.items():
        match = LAYER.fullmatch(name)
        pattern = f"{match[1]}#{match[3]}" if match else name
        numbers = table.setdefault(f"{pattern} {json.dumps(shape)}", [])
        if match:
            numbers.append(int(match[2]))
    return table


def expand(table: dict[str, list[int]]) -> Shapes:
    shapes: Shapes = {}
    for line, numbers in table.items():
        pattern, shape = line.split(" ", 1)
        for name in [pattern.replace("#", str(number)) for number in numbers] or [pattern]:
            shapes[name] = json.loads(shape)
    return shapes


def main() -> None:
    for name in UNETS:
        settings = their_config(getattr(config, name.upper()))
        with torch.device("meta"):
            _write(name, shapes_of(StableCascadeUNet(**settings)))
    with torch.device("meta"):
        _write("stage_a", shapes_of(PaellaVQModel(**asdict(config.STAGE_A))))


def _write(name: str, shapes: Shapes) -> None:
    lines = [f"{json.dumps(line)}: {json.dumps(numbers)}" for line, numbers in compact(shapes).items()]
    KEYS.mkdir(exist_ok=True)
    (KEYS / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
