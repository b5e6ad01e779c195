"""Write the demo's prompt table.  Run:  python jobs/demo/make_prompts.py

24 prompts in the wording of the world that `mini` knows, chosen by hand so that every shape, colour, size, count,
relation and ground occurs. `kind` is a carried column: only readers of the manifest care about it.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

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


def main() -> None:
    rows = [(kind, number, text) for kind, texts in PROMPTS.items() for number, text in enumerate(texts, 1)]
    table = pa.table(
        {
            "id": [f"{kind}/{number}" for kind, number, _ in rows],
            "prompt": [text for _, _, text in rows],
            "kind": [kind for kind, _, _ in rows],
        }
    )
    pq.write_table(table, Path(__file__).parent / "prompts.parquet")


if __name__ == "__main__":
    main()
