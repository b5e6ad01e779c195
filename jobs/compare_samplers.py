"""What each sampler does to prompt following, by prior steps: the table in docs/measured.md.

Run:  python -m jobs.compare_samplers --out build/samplers

Renders the 36 sampled prompts of the evaluation with the model that ships, one picture each, once per sampler and
number of prior steps, scores the pictures, and prints the share that shows exactly what was asked. Decoder steps and
guidance are the preset's. A table that was interrupted goes on when the command is repeated.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.evaluate.score import SCORES

SAMPLED = Path(__file__).parent / "evaluate" / "sampled.parquet"
SAMPLERS = {
    "`diffusers`: DDPM": ("diffusers", "ddpm"),
    "`original`: DDPM, shifted, rescaled": ("original", "ddpm"),
    "`diffusers` with DDIM": ("diffusers", "ddim"),
    "`original` with DDIM": ("original", "ddim"),
}
"""Row of the table -> preset, and Stage C's method."""
STEPS = (4, 6, 10, 20)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.compare_samplers", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the runs go")
    parser.add_argument("--images", type=int, default=1, metavar="N", help="pictures per prompt (default 1)")
    arguments = parser.parse_args(argv)
    print(f"| right, % | {' | '.join(f'{steps} steps' for steps in STEPS)} |")
    print(f"|---|{'---|' * len(STEPS)}")
    for name, (preset, method) in SAMPLERS.items():
        shares = [_share(arguments.out, preset, method, steps, arguments.images) for steps in STEPS]
        print(f"| {name} | {' | '.join(f'{share:.1f}' for share in shares)} |", flush=True)
    return 0


def _share(out: Path, preset: str, method: str, steps: int, images: int) -> float:
    """Share of pictures that are right, in percent: the mean of the six tasks. Renders what is not there yet."""
    run = out / f"{preset}-{method}-{steps}"
    if not (run / SCORES).exists():
        settings = (f"sampler.preset={preset}", f"sampler.c.method={method}", f"render.prior_steps={steps}")
        flags = [flag for setting in settings for flag in ("--set", setting)]
        command = [sys.executable, "-m", "jobs.evaluate", "--out", str(run), "--prompts", str(SAMPLED)]
        command += ["--runner", "local", "--images", str(images), *flags]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return 100 * json.loads((run / SCORES).read_text())["overall"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
