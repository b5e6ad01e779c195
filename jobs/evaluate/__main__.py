"""Score a model on the evaluation's prompts.

Run:  python -m jobs.evaluate --out runs/eval [--model mini] [--set sampler.preset=original]     renders, then scores
      python -m jobs.evaluate RUN                                                            scores a finished run

A render that was interrupted goes on when the command is repeated. Scores are printed and written to
`<run>/scores.json`; `--details FILE` writes one row per picture. Exit code 0 whatever the scores are.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from cascade_batch.errors import CascadeError
from cascade_batch.storage import Storage
from jobs.evaluate.prompts import PROMPTS
from jobs.evaluate.score import SCORES, as_text, score

RENDER = Path(__file__).parent.parent / "render.py"


def main(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    uri = arguments.run or arguments.out
    if arguments.out and (code := _render(arguments)):
        return code
    try:
        scores, details = score(uri)
        Storage(uri).put(SCORES, json.dumps(scores, indent=1).encode())
    except CascadeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.details:
        pq.write_table(details, arguments.details)
    print(as_text(scores))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.evaluate", description="Score a model by its pictures."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("run", nargs="?", metavar="RUN", help="score this finished run")
    what.add_argument("--out", metavar="RUN", help="render the prompts into this run, then score it")
    parser.add_argument("--details", metavar="FILE", help="write a Parquet file with one row per picture")
    parser.add_argument("--prompts", default=str(PROMPTS), metavar="FILE", help="default: all 600 prompts")
    parser.add_argument("--images", type=int, default=4, metavar="N", help="pictures per prompt (default 4)")
    parser.add_argument("--model", help="as of cascade-batch render")
    parser.add_argument("--runner", choices=("ray", "local"), help="as of cascade-batch render")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="any key of the spec")
    return parser


def _render(arguments: argparse.Namespace) -> int:
    """The exit code of `cascade-batch render`, which runs in a process of its own."""
    flags = ["--out", arguments.out, "--set", f"render.num_images={arguments.images}"]
    for name in ("model", "runner"):
        if value := getattr(arguments, name):
            flags += [f"--{name}", value]
    for setting in arguments.set:
        flags += ["--set", setting]
    return subprocess.run([sys.executable, str(RENDER), arguments.prompts, *flags]).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
