"""The `demo` command: a prompt table to begin with, for whoever has the package and no prompts."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cascade_batch.cli.exit_codes import FINISHED
from cascade_batch.errors import SpecError

PROMPTS = {
    "one": [
        "a red circle",
        "a large yellow star on a blue background",
        "a drawing of a small purple heart in the top left corner on a white background",
        "an orange triangle at the bottom on a black background",
        "a green cross on the right side",
        "a picture of a big pink square on a checkered gray background",
    ],
    "pair": [
        "a red heart and a blue square",
        "a brown circle to the left of a green triangle",
        "a yellow star above a purple circle on a gray background",
        "a small white cross below a large red square against a black background",
        "an orange square to the right of a pink star on a green background",
        "a black triangle next to a white heart on a pink background",
    ],
    "count": [
        "two red stars",
        "three blue squares on a yellow background",
        "four small green hearts on a white background",
        "five little white crosses on a black background",
        "four orange triangles on a striped blue background",
        "three purple circles with a dotted yellow background",
    ],
    "group": [
        "three small blue squares above a large yellow star on a pink background",
        "two red circles below a green cross on a white background",
        "three white hearts over a brown square on a striped green background",
        "two orange stars on top of a black circle on gray",
        "three tiny pink triangles under a big blue heart on a checkered white background",
        "two medium purple crosses beneath a huge yellow circle on a dotted black background",
    ],
}
"""24 prompts in the wording of the world that `mini` knows, chosen by hand so that every shape, colour, size, count,
relation and ground occurs."""


def demo_command(path: Path) -> int:
    """Write the table and say how it is rendered. Raises SpecError for a file that is there, or cannot be."""
    try:
        with path.open("xb") as file:
            pq.write_table(demo_table(), file)
    except OSError as error:
        raise SpecError(
            "cannot write the prompt table", where=str(path), got=error.strerror, next_step="name a new file"
        ) from None
    print(
        f"{path}: {demo_table().num_rows} prompts\nnext:\n  cascade-batch render {path} --out demo --runner local"
    )
    return FINISHED


def demo_table() -> pa.Table:
    """The table; `kind` is a carried column: only readers of the manifest care about it."""
    rows = [(kind, number, text) for kind, texts in PROMPTS.items() for number, text in enumerate(texts, 1)]
    return pa.table(
        {
            "id": [f"{kind}/{number}" for kind, number, _ in rows],
            "prompt": [text for _, _, text in rows],
            "kind": [kind for kind, _, _ in rows],
        }
    )
