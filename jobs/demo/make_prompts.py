"""Write the demo's prompt table, that of `cascade-batch demo`.  Run:  python jobs/demo/make_prompts.py"""

from pathlib import Path

import pyarrow.parquet as pq

from cascade_batch.cli.demo import PROMPTS, demo_table

__all__ = ["PROMPTS"]


def main() -> None:
    pq.write_table(demo_table(), Path(__file__).parent / "prompts.parquet")


if __name__ == "__main__":
    main()
