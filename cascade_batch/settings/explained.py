"""Every key of a spec with its default and its meaning: as YAML that may be edited, and as plain names.

A meaning is the text under the field in `tree`, read from its source: Python keeps none of it.
"""

import ast
import dataclasses
import inspect
import json
import textwrap
import typing
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from cascade_batch.settings.tree import Spec

WIDTH = 110
"""Of a line in columns."""
HEAD = """\
# Every key of a spec with its default. Keep the keys that you change, and give the file with --spec FILE;
# --set a.b=c sets one key, over the file's value.
"""
OF_THE_PRESET = ("decoder_guidance_scale",)
"""Keys whose default another key decides: stated, they would outlive its change."""
COMMAND = "cascade-batch settings"
SHOW_ALL = f"`{COMMAND}` prints every key with its meaning"
"""What an error about a key says last."""


def explained_yaml() -> str:
    """The whole tree as YAML, its meanings in comments. Read as a spec it is the spec of all defaults."""
    return HEAD + "\n".join(_lines(Spec, "")) + "\n"


def setting_keys(kind: Any = Spec, path: str = "") -> Iterator[str]:
    """Every key that `--set` takes a plain value for, `pools.c.batch` for one; the list of LoRAs is one key."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        key = f"{path}.{field.name}".strip(".")
        if dataclasses.is_dataclass(hints[field.name]):
            yield from setting_keys(hints[field.name], key)
        else:
            yield key


@lru_cache
def meanings(kind: type) -> dict[str, str]:
    """Field -> the text under it, of one class of the tree."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, after in zip(tree.body, tree.body[1:], strict=False):
        match field, after:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text).replace("\n", " ").replace("None:", "null:")
    return found


def _lines(kind: type, indent: str) -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint, told = hints[field.name], meanings(kind)[field.name]
        if not indent:
            yield ""
        yield from _comment(told, f"{indent}# ")
        if dataclasses.is_dataclass(hint):
            yield f"{indent}{field.name}:"
            yield from _lines(typing.cast(type, hint), indent + "  ")
            continue
        off = "# " if field.name in OF_THE_PRESET else ""
        yield f"{indent}{off}{field.name}: {json.dumps(_default(field))}"
        if typing.get_origin(hint) is tuple:
            yield from _entry(typing.get_args(hint)[0], indent)


def _entry(kind: type, indent: str) -> Iterator[str]:
    """What an entry of a list looks like, as comments."""
    yield f"{indent}# with entries such as:"
    for number, field in enumerate(dataclasses.fields(kind)):
        yield from _comment(meanings(kind)[field.name], f"{indent}#     # ")
        yield f"{indent}#   {' ' if number else '-'} {field.name}: {json.dumps(_default(field))}"


def _comment(text: str, begin: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=begin, subsequent_indent=begin)


def _default(field: dataclasses.Field) -> Any:
    """Plain: null for a key that has no default."""
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()
