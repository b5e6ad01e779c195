"""Write the demo's prompt table.  Run:  python jobs/demo/make_prompts.py

Every optional column has its place here: ids, seeds, several images of one prompt, another size, guidance
of its own, negative prompts, and two carried columns that only the manifest's readers care about.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SCENES = {
    "single": ["a red circle", "a large yellow star", "a small blue square", "a green triangle"],
    "pair": [
        "a red circle and a blue square",
        "a yellow star and a purple cross",
        "an orange triangle and a white circle",
        "a pink square and a black star",
    ],
    "count": ["three blue squares", "two red stars", "four small green circles", "five tiny white crosses"],
    "position": [
        "a red circle above a blue square",
        "a yellow star to the left of a green triangle",
        "a small cross below a large circle",
        "an orange square to the right of a pink star",
    ],
    "background": [
        "a white circle on a black background",
        "a blue star on a striped background",
        "a red cross on a pink background",
        "a yellow square on a dotted background",
    ],
    "mixed": [
        "three small blue squares above a large yellow star on a pink background",
        "two red circles to the left of a green cross on a white background",
        "a purple triangle between two orange stars",
        "four black crosses around a white circle on a striped background",
    ],
}


def main() -> None:
    rows = [(kind, text) for kind, texts in SCENES.items() for text in texts]
    count = len(rows)
    table = pa.table(
        {
            "id": [f"{kind}/{i:02d}" for i, (kind, _) in enumerate(rows)],
            "prompt": [text for _, text in rows],
            "negative_prompt": ["blurred" if kind == "mixed" else None for kind, _ in rows],
            "seed": pa.array([1000 + i if i % 2 else None for i in range(count)], pa.int64()),
            "num_images": pa.array([2 if kind == "single" else None for kind, _ in rows], pa.int32()),
            "width": pa.array([384 if kind == "position" else None for kind, _ in rows], pa.int32()),
            "prior_guidance_scale": [2.0 if kind == "count" else None for kind, _ in rows],
            "kind": [kind for kind, _ in rows],
            "words": [len(text.split()) for _, text in rows],
        }
    )
    pq.write_table(table, Path(__file__).parent / "prompts.parquet")


if __name__ == "__main__":
    main()
