"""The arguments of `cascade-batch collection`."""

import argparse
import re

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_collection(parser: argparse.ArgumentParser) -> None:
    """Every action; the collection is the first argument of each."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _action(actions, "history", "its editions, the newest first")
    show = _action(actions, "show", "one edition: what it shows, what it cost, what it was made with")
    _add_edition(show, "edition", "default: the newest")
    compare = _action(actions, "diff", "prompts added, withdrawn and changed between two editions, and why")
    _add_edition(compare, "before", "default: the one before the later one")
    _add_edition(compare, "after", "default: the newest")
    compare.add_argument(
        "--json", action="store_true", help="one JSON object a line: a summary, then every prompt"
    )
    restore = _action(actions, "restore", "make an older edition the newest again, as a new edition")
    restore.add_argument("edition", type=int, metavar="N", help="its number")
    _add_busy(restore)
    _add_gc(_action(actions, "gc", "delete what no kept edition refers to: first marked, after a time swept"))
    _add_verify(_action(actions, "verify", "check every picture and embedding that an edition refers to"))


def _action(actions: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("collection", metavar="COLLECTION", help="its folder or URL")
    return parser


def _add_edition(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    parser.add_argument(name, nargs="?", type=int, metavar="N", help=f"an edition's number; {text}")


def _add_gc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep", type=int, required=True, metavar="K", help="keep the newest K editions")
    parser.add_argument(
        "--grace",
        type=seconds,
        default=UNITS["d"],
        metavar="TIME",
        help="sweep what was marked this long ago: 90m, 24h, 7d (default 24h)",
    )
    parser.add_argument(
        "--delete", action="store_true", help="do it; without this only say what would be done"
    )
    _add_busy(parser)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    _add_edition(parser, "edition", "default: the newest")
    parser.add_argument("--all", action="store_true", help="every edition that gc has not given up")
    parser.add_argument("--repair", action="store_true", help="render again what is damaged or gone")
    parser.add_argument("--runner", choices=("ray", "local"), default="ray", help="of --repair; default: ray")
    _add_busy(parser)


def _add_busy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--if-busy",
        choices=("fail", "wait"),
        default="fail",
        help="what to do while another process is at work on the collection (default: fail, exit code 5)",
    )


def seconds(text: str) -> float:
    """A time as people write it. Raises ArgumentTypeError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if match is None or not (match[2] or float(match[1]) == 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 90m, 24h or 7d")
    return float(match[1]) * UNITS.get(match[2], 1)
