"""Through which functions a prompt's text, a seed and a shard go: `python -m tests.lives` renders one image and tells.

A function is on the way of a value if one of its arguments holds it: as it is, in a list, a mapping or an Arrow table,
or in what travels between steps. `docs/architecture.md` shows the lists.
"""

import dataclasses
import sys
import tempfile
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import cascade_batch
from cascade_batch.cli import main
from cascade_batch.workers.shards import ShardData, Ticket

ROOT = str(Path(cascade_batch.__file__).parent)
TEXT, SEED = "a lighthouse named Zanzibar", 7_919_000_000_000_001
FLAGS = ["--model=tiny", "--width=256", "--height=256", "--runner=local"]
STEPS = ["--set=render.prior_steps=2", "--set=render.decoder_steps=2"]
DEEP, MANY = 3, 80
"""How far, and in collections of how many, a value is looked for."""

lives: dict[str, list[str]] = {"text": [], "seed": [], "shard": []}


def holds(value: Any, wanted: str | int, depth: int = 0) -> bool:
    if isinstance(value, str | int):
        return value == wanted
    if depth > DEEP:
        return False
    if isinstance(value, pa.Table):
        return value.num_rows < MANY and any(wanted in column.to_pylist() for column in value.columns)
    if isinstance(value, dict):
        value = list(value.values())
    elif type(value).__module__.startswith("cascade_batch") and dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    return (
        isinstance(value, list | tuple)
        and len(value) < MANY
        and any(holds(v, wanted, depth + 1) for v in value)
    )


def watch(frame: FrameType, event: str, _argument: Any) -> None:
    code = frame.f_code
    if event != "call" or not code.co_filename.startswith(ROOT) or code.co_name.startswith("<"):
        return
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    given = {name: frame.f_locals.get(name) for name in names if name not in ("self", "cls")}
    file = code.co_filename.removeprefix(f"{ROOT}/").removesuffix(".py")
    here = f"{file}:{code.co_qualname.replace('.<locals>', '')}"
    for life, is_here in (
        ("text", any(holds(value, TEXT) for value in given.values())),
        ("seed", any(holds(value, SEED) for value in given.values())),
        ("shard", any(isinstance(v, Ticket | ShardData) or n == "shard" for n, v in given.items())),
    ):
        if is_here:
            lives[life].append(here)


def told(steps: list[str]) -> None:
    """A line for each room that is entered, and the counts."""
    entered = [(room, list(dict.fromkeys(s))) for room, s in groupby(steps, lambda step: step.split("/")[0])]
    for room, functions in entered:
        print(f"  {room}: {', '.join(function.removeprefix(f'{room}/') for function in functions)}")
    rooms = {room for room, _ in entered}
    print(f"  {len(rooms)} rooms, entered {len(entered)} times, {len(entered) - len(rooms)} of these again")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(
            pa.table({"id": ["one"], "prompt": [TEXT], "seed": [SEED]}), f"{folder}/prompts.parquet"
        )
        sys.setprofile(watch)
        main(["render", f"{folder}/prompts.parquet", "--out", f"{folder}/run", *FLAGS, *STEPS])
        sys.setprofile(None)
    for life, steps in lives.items():
        print(life)
        told(steps)
