"""The story of a collection, told by its commands: three editions, their cost, what changed, going back, cleaning up.

Run:  python jobs/demo/regenerate.py FOLDER [--model mini|tiny] [flags of `cascade-batch regenerate`]

FOLDER is new, or one where the story was broken off: told again, it goes on there.

Monday has the 24 prompts of the demo. On Tuesday two are changed, one is withdrawn and one is new. On Wednesday Stage B
is another one: the model's own, its weights rounded to eight bits (`float8_e4m3fn`), as people do to save memory.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

import cascade_batch
from cascade_batch.cli.demo import demo_table

CHANGED = {"one/1": "a blue circle", "pair/1": "a red heart and a green square"}
WITHDRAWN = "count/4"
NEW = {"id": "one/7", "prompt": "a large purple heart on a yellow background", "kind": "one"}
MODELS = Path(cascade_batch.__file__).parent / "embedded"
COLLECTION, STAGE_B, SHEET = "collection", "stage_b", "editions.png"
TIME_TRAVEL = """\
import pyarrow.compute as pc
from deltalake import DeltaTable
columns = ["prompt", "image_uri"]
for version in (1, 2, 3):  # an edition's number is the version of the table
    rows = DeltaTable("collection/table", version=version).to_pyarrow_dataset()
    print(version, rows.filter(pc.field("prompt_id") == "one/1").to_table(columns).to_pylist())
"""


class Narrator:
    """Says what happens, shows each command, and runs it in the story's folder."""

    def __init__(self, folder: Path, runner: str, settings: Sequence[str]) -> None:
        self._folder, self._runner, self._settings = folder, runner, list(settings)

    def say(self, text: str) -> None:
        print(f"\n# {text}", flush=True)

    def cascade_batch(self, *words: str) -> None:
        """Raises CalledProcessError if the command fails."""
        self._run(
            "cascade-batch", [sys.executable, "-c", "from cascade_batch.cli import entry; entry()"], words
        )

    def regenerate(self, prompts: str, edition: str, *words: str) -> None:
        how = [
            "--runner",
            self._runner,
            "--set=shards.prompts=4",
            *self._settings,
        ]  # so small to show progress
        self.cascade_batch("regenerate", prompts, "--into", COLLECTION, "--edition", edition, *words, *how)

    def plan(self, prompts: str) -> None:
        self.cascade_batch("plan", prompts, "--into", COLLECTION, *self._settings)

    def contact_sheet(self, *words: str) -> None:
        script = Path(__file__).absolute().with_name("contact_sheet.py")
        self._run(f"python {script.name}", [sys.executable, str(script)], words)

    def python(self, code: str) -> None:
        for line in code.splitlines():
            print("..." if line.startswith(" ") else ">>>", line, flush=True)
        subprocess.run([sys.executable, "-c", code], cwd=self._folder, check=True)

    def _run(self, name: str, command: Sequence[str], words: Sequence[str]) -> None:
        print(f"$ {name} {shlex.join(words)}", flush=True)
        subprocess.run([*command, *words], cwd=self._folder, check=True)


def tell(story: Narrator) -> None:
    """Raises CalledProcessError if a command fails."""
    render(story)
    look(story)
    clean_up(story)


def prepare(folder: Path, model: str) -> None:
    """Monday's and Tuesday's table, and Wednesday's Stage B."""
    folder.mkdir(parents=True, exist_ok=True)
    monday = demo_table()
    pq.write_table(monday, folder / "monday.parquet")
    pq.write_table(tuesday(monday), folder / "tuesday.parquet")
    if not (folder / STAGE_B).exists():
        write_rounded(MODELS / model / "decoder", folder / STAGE_B)


def tuesday(monday: pa.Table) -> pa.Table:
    rows = [row for row in monday.to_pylist() if row["id"] != WITHDRAWN]
    return pa.Table.from_pylist([*(_changed(row) for row in rows), NEW], monday.schema)


def _changed(row: Mapping[str, str]) -> dict[str, str]:
    return {**row, "prompt": CHANGED.get(row["id"], row["prompt"])}


def write_rounded(source: Path, target: Path) -> None:
    """A Stage B whose weights have eight bits each, kept as float32."""
    target.mkdir()
    name = "diffusion_pytorch_model.safetensors"
    weights = load_file(source / name)
    rounded = {key: tensor.to(torch.float8_e4m3fn).float() for key, tensor in weights.items()}
    save_file(rounded, target / name, metadata={"format": "pt"})
    (target / "config.json").write_bytes((source / "config.json").read_bytes())


def render(story: Narrator) -> None:
    story.say("Monday: nothing is known yet, so all 24 prompts are rendered.")
    story.regenerate("monday.parquet", "monday")
    story.say("Tuesday: two prompts were changed, one was withdrawn, one is new. What would that cost?")
    story.plan("tuesday.parquet")
    story.say("Three pictures.")
    story.regenerate("tuesday.parquet", "tuesday")
    story.cascade_batch("collection", "diff", COLLECTION)
    story.say("The scheduler has started Tuesday's job twice. An edition of a name is made once.")
    story.regenerate("tuesday.parquet", "tuesday")
    story.say(
        "Wednesday: another Stage B. The embeddings are known, so 24 are decoded, and Stage C is not loaded."
    )
    story.regenerate("tuesday.parquet", "wednesday", "--stage-b", STAGE_B)
    story.cascade_batch("collection", "diff", COLLECTION)


def look(story: Narrator) -> None:
    story.say("What there is by now, and one edition of it.")
    story.cascade_batch("collection", "history", COLLECTION)
    story.cascade_batch("collection", "show", COLLECTION, "3")
    story.say("Time travel: any reader of Delta Lake sees Monday's table beside Tuesday's.")
    story.python(TIME_TRAVEL)
    story.say("Monday's pictures beside Wednesday's.")
    story.contact_sheet(COLLECTION, "--edition=1", "--edition=3", f"--out={SHEET}")


def clean_up(story: Narrator) -> None:
    story.say("Keep two editions. First only look at what would go.")
    gc = ("collection", "gc", COLLECTION, "--keep=2")
    story.cascade_batch(*gc)
    story.say("In earnest. A day of grace lies between marking and deleting, unless one asks for less.")
    story.cascade_batch(*gc, "--grace=0", "--delete")
    story.say("All that the newest edition shows is there, bit by bit.")
    story.cascade_batch("collection", "verify", COLLECTION)
    story.cascade_batch("collection", "history", COLLECTION)


def _settings(model: str, flags: Sequence[str]) -> list[str]:
    return [*([] if model == "mini" else [f"--model={model}"]), *flags]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="The story of a collection, told by its commands.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new one")
    parser.add_argument("--model", choices=("mini", "tiny"), default="mini")
    parser.add_argument("--runner", choices=("local", "ray"), default="local")
    options, settings = parser.parse_known_args(arguments)
    folder = options.folder.absolute()
    if (folder / SHEET).exists():
        print(f"error: the story was told in {folder} already; name a new folder", file=sys.stderr)
        return 1
    prepare(folder, options.model)
    try:
        tell(Narrator(folder, options.runner, _settings(options.model, settings)))
    except subprocess.CalledProcessError as error:
        print(f"error: the command above has ended with exit code {error.returncode}", file=sys.stderr)
        return 1
    print(f"\nlook at    {folder / SHEET}\npictures   {folder / COLLECTION / 'runs'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
