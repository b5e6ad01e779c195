"""The frozen surface of the command line. Everyday flags are names for keys of the spec; the rest is `--set`."""

import argparse
from typing import Any

from cascade_batch import __version__
from cascade_batch.cli.collection_arguments import add_collection
from cascade_batch.errors import SpecError

MODEL_HELP = (
    "an embedded model (mini, the default, draws flat shapes; tiny draws colour fields, for tests), or a folder, "
    "safetensors file, hub id (owner/name) or URL, in the diffusers layout or that of the original release. The "
    "published Stable Cascade weights are under Stability AI's non-commercial research licence; this program's "
    "Apache-2.0 licence does not cover them"
)

PART_FLAGS = (
    "stage_c",
    "stage_b",
    "stage_a",
    "text_encoder",
    "tokenizer",
    "image_encoder",
    "effnet_encoder",
    "controlnet",
)
SPEC_FLAGS = {
    "prompts": "prompts.uri",
    "out": "output.uri",
    "model": "model.name",
    **{part: f"model.{part}" for part in PART_FLAGS},
    "variant": "model.variant",
    "dtype": "model.dtype",
    "limit": "prompts.limit",
    "embeddings_from": "prompts.embeddings_from",
    "seed": "seed",
    "width": "render.width",
    "height": "render.height",
    "c_actors": "pools.c.actors",
    "c_gpus": "pools.c.gpus",
    "ba_actors": "pools.ba.actors",
    "ba_gpus": "pools.ba.gpus",
    "max_failed_rows": "limits.failed_rows",
    "log_format": "log.format",
}
"""Flag -> the key of the spec it names."""


def build_parser() -> argparse.ArgumentParser:
    """Every command with its flags; importing neither torch nor ray."""
    parser = argparse.ArgumentParser(
        prog="cascade-batch",
        description="Render prompt tables with Stable Cascade: resumable, verifiable, one manifest row per image.",
        epilog="exit codes: 0 finished, 1 failed, 2 bad input (nothing spent), 3 more failed rows than allowed, "
        "4 verify found a difference, 5 a collection is busy, 6 an edition has failed rows, 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"cascade-batch {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_render(commands.add_parser("render", help="render a prompt table, or go on where it stopped"))
    _add_plan(commands.add_parser("plan", help="shards, images, bytes and PFLOP of a table; writes nothing"))
    _add_regenerate(
        commands.add_parser(
            "regenerate", help="bring a collection to what a table asks for; renders what changed"
        )
    )
    _add_import(commands.add_parser("import", help="make a run known to a collection, without copying it"))
    status = commands.add_parser("status", help="how far a run is")
    status.add_argument("run", metavar="RUN", help="the run's folder or URL")
    status.add_argument("--rows", action="store_true", help="count failed rows by code: reads every manifest")
    verify = commands.add_parser("verify", help="check every image of a run against its manifest")
    verify.add_argument("run", metavar="RUN", help="the run's folder or URL")
    verify.add_argument(
        "--reopen",
        action="store_true",
        help="re-open damaged shards for the next render: deletes their damaged pictures, embeddings and manifests; "
        "orphans are never deleted",
    )
    add_collection(
        commands.add_parser("collection", help="editions of a collection: compare, restore, clean up, check")
    )
    _add_model(commands.add_parser("model", help="what a checkpoint is, and the same in the other layout"))
    commands.add_parser(
        "settings", help="every key of the spec with its default and meaning, as YAML to edit"
    )
    demo = commands.add_parser("demo", help="write a prompt table to try the program with")
    demo.add_argument(
        "file", nargs="?", default="prompts.parquet", metavar="FILE", help="default: %(default)s"
    )
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspect = actions.add_parser("inspect", help="parts, layout, parameters, dtype, digests, memory")
    inspect.add_argument("model", metavar="PATH", help="a model's folder, hub id or URL, or one of its files")
    convert = actions.add_parser("convert", help="write the parts in another layout, tensors byte for byte")
    convert.add_argument("model", metavar="PATH", help="a model's folder, hub id or URL, or one of its files")
    convert.add_argument("folder", metavar="OUT", help="a new local folder")
    convert.add_argument(
        "--to", required=True, choices=("diffusers", "original"), help="a folder per part, or a file per part"
    )


def _add_render(parser: argparse.ArgumentParser) -> None:
    _add_spec_flags(parser)
    parser.add_argument("--runner", choices=("ray", "local"), default="ray", help="default: ray")
    parser.add_argument(
        "--embeddings-from",
        metavar="RUN_OR_COLLECTION",
        help="decode the stored embeddings of a run or collection, each of the very key that its row asks for, with "
        "other decoder settings, Stage B or Stage A; Stage C is not loaded",
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="render only failed rows; all others keep bytes and rows"
    )
    parser.add_argument(
        "--take-over", action="store_true", help="go on although another driver seems alive on this store"
    )


def _add_regenerate(parser: argparse.ArgumentParser) -> None:
    _add_spec_flags(parser)
    parser.add_argument(
        "--into",
        required=True,
        metavar="COLLECTION",
        help="the collection's folder or prefix; made if it is new",
    )
    parser.add_argument("--runner", choices=("ray", "local"), default="ray", help="default: ray")
    _add_reuse_flags(parser)
    parser.add_argument(
        "--edition",
        metavar="NAME",
        help="name of the edition, such as a date: an edition of a name is made once",
    )
    parser.add_argument(
        "--keep-stale",
        action="store_true",
        help="an image that fails shows its last good picture, marked stale",
    )
    parser.add_argument(
        "--allow-empty",
        action="store_true",
        help="a table without prompts withdraws every image, else it is refused",
    )
    _add_if_busy(parser)


def _add_reuse_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reuse",
        choices=("keys", "bits"),
        default="keys",
        help="take known pictures of equal key (default), or of equal device kind, versions, batch and threads too",
    )
    parser.add_argument(
        "--retry-failed",
        choices=("always", "never"),
        default="always",
        help="render images that failed before once more (default: always)",
    )


def _add_if_busy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--if-busy",
        choices=("fail", "skip", "wait"),
        default="fail",
        help="while another process is at work on the collection: exit 5 (default), exit 0, or wait",
    )


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the run's folder or URL, where it stays")
    parser.add_argument("--into", required=True, metavar="COLLECTION", help="made if it is new")
    _add_if_busy(parser)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    _add_spec_flags(parser)
    parser.add_argument(
        "--into",
        metavar="COLLECTION",
        help="what `regenerate` would reuse, decode and render with this collection",
    )
    _add_reuse_flags(parser)
    parser.add_argument("--runner", choices=("ray", "local"), default="ray", help="of --into; default: ray")
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument("--rate", type=float, metavar="N", help="measured images per second, to print hours")
    rate.add_argument("--rate-from", metavar="RUN", help="take the rate from an earlier run's manifest")
    rate.add_argument(
        "--calibrate",
        action="store_true",
        help="measure the rate: render two batches per pool on this machine",
    )
    parser.add_argument(
        "--gpus",
        type=int,
        metavar="N",
        help="the best split of N GPUs between the pools, from a measured rate",
    )


def _add_spec_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompts", nargs="?", metavar="PROMPTS", help="Parquet file, folder or glob; any URL")
    parser.add_argument("--out", metavar="RUN", help="the run's folder or bucket prefix")
    parser.add_argument("--spec", metavar="FILE", help="YAML file with keys of the spec")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="A.B=C",
        dest="sets",
        help="any key of the spec; `cascade-batch settings` prints them all",
    )
    parser.add_argument("--model", metavar="NAME", help=MODEL_HELP)
    for part in PART_FLAGS:
        parser.add_argument(
            f"--{part.replace('_', '-')}", metavar="PATH", help=f"take {part} from here instead; as --model"
        )
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="PATH[=WEIGHT][,alpha=ALPHA]",
        help="merge a LoRA, a file or folder, into Stage C and the text encoder; may be repeated (default weight 1.0; "
        "alpha only where the file does not tell)",
    )
    parser.add_argument("--variant", help="file variant of the weights, such as bf16")
    parser.add_argument("--dtype", help="auto, float32 or bfloat16 for all networks")
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help="use another column, prompt=caption",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N prompts")
    parser.add_argument("--seed", type=int, help="run seed, for rows without one")
    parser.add_argument("--width", type=int, help="pixels, multiple of 8 (default 1024)")
    parser.add_argument("--height", type=int, help="pixels, multiple of 8 (default 1024)")
    for pool, stage in (("c", "Stage C"), ("ba", "Stage B + A")):
        parser.add_argument(f"--{pool}-actors", type=int, metavar="N", help=f"actors of pool {stage}")
        parser.add_argument(f"--{pool}-gpus", type=float, metavar="X", help="GPU share of each; 0 for CPU")
    parser.add_argument(
        "--max-failed-rows", type=int, metavar="N", help="stop beyond this, all sittings counted"
    )
    parser.add_argument("--log-format", choices=("text", "json"))


def spec_flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """The spec keys that flags set; a flag not given sets nothing."""
    given = {key: getattr(arguments, flag, None) for flag, key in SPEC_FLAGS.items()}
    flags = {key: value for key, value in given.items() if value is not None}
    if arguments.column:
        flags["prompts.columns"] = dict(_column(text) for text in arguments.column)
    if arguments.lora:
        flags["model.loras"] = [_lora(text) for text in arguments.lora]
    return flags


def _column(text: str) -> tuple[str, str]:
    ours, sign, theirs = text.partition("=")
    if not sign or not ours or not theirs:
        raise SpecError("--column needs ours=theirs", got=text, next_step="write --column prompt=caption")
    return ours, theirs


def _lora(text: str) -> dict[str, Any]:
    rest, sign, alpha = text.rpartition(",alpha=")
    given = {"alpha": _number(alpha, text)} if sign else {}
    path, sign, weight = (rest if sign else text).rpartition("=")
    if not sign or "/" in weight or weight.endswith(".safetensors"):  # the sign is one of the path's own
        return {"uri": rest if given else text, **given}
    return {"uri": path, "weight": _number(weight, text), **given}


def _number(number: str, text: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise SpecError(
            "--lora takes PATH, PATH=WEIGHT or PATH=WEIGHT,alpha=ALPHA",
            got=text,
            next_step="write --lora x.safetensors=0.8",
        ) from None
