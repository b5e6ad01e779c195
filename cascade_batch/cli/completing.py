"""Completion in the shell: commands, flags, and the keys after `--set`.

    eval "$(register-python-argcomplete cascade-batch)"

The shell then runs the program with `_ARGCOMPLETE` set, whose answer is the words that may follow.
"""

import argparse
import os
from collections.abc import Iterator

from cascade_batch.cli.arguments import build_parser
from cascade_batch.settings.explained import setting_keys

MARK = "_ARGCOMPLETE"


def complete() -> None:
    """Answer the shell and end the process, if it is the shell that asks."""
    if MARK not in os.environ:
        return
    import argcomplete

    parser = build_parser()
    for action in _actions(parser):
        if action.dest == "sets":
            action.completer = _keys  # pyright: ignore[reportAttributeAccessIssue]: as argcomplete has it
    argcomplete.autocomplete(parser)


def _keys(prefix: str, **_: object) -> list[str]:
    return [f"{key}=" for key in setting_keys() if key.startswith(prefix)]


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Those of a parser and of its commands'."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
