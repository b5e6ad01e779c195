"""Reading a spec: a YAML text, then each `--set a.b=c`, then the everyday flags. Strict keys, exact types."""

import dataclasses
import os
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from cascade_batch.errors import SpecError, did_you_mean
from cascade_batch.settings.checks import check
from cascade_batch.settings.explained import SHOW_ALL
from cascade_batch.settings.samplers import with_guidance
from cascade_batch.settings.tree import DtypeSpec, Spec
from cascade_batch.settings.values import plain, shown

UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)
"""What the YAML parser raises: the second for a date such as 2001-99-99, the third for hundreds of brackets."""
MOST_BITS = 64
"""No key takes a longer whole number, and Python prints no very long one."""


def load_spec(text: str = "", sets: Iterable[str] = (), flags: Mapping[str, Any] | None = None) -> Spec:
    """The resolved spec of a YAML text, `a.b=c` settings and everyday flags, later ones winning.

    Raises:
        SpecError: an unknown key, a value of the wrong type or out of its range; nothing was spent.
    """
    tree = _parse_yaml(text, "the spec file")
    for setting in sets:
        key, sign, value = setting.partition("=")
        if not sign or not key:
            raise SpecError("--set needs key=value", got=setting, next_step="write --set render.width=512")
        _assign(tree, key.strip(), _parse_value(value), f"--set {key}")
    for key, value in (flags or {}).items():
        _assign(tree, key, value, key)
    return spec_from_dict(tree)


def spec_from_dict(tree: Mapping[str, Any]) -> Spec:
    """A checked spec of nested plain values, such as `run.json` holds."""
    spec = _build(Spec, tree, "")
    check(spec)
    return spec if "decoder_guidance_scale" in tree.get("render", {}) else with_guidance(spec)


def spec_to_dict(spec: Spec) -> dict[str, Any]:
    """The spec as nested plain values, for `run.json`."""
    return dataclasses.asdict(spec)


def _parse_yaml(text: str, where: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text) or {}
    except UNREADABLE as error:
        raise SpecError("not valid YAML", where=where, got=str(error)) from None
    if not isinstance(tree, dict):
        raise SpecError(
            "a spec is a tree of keys", where=where, got=type(tree).__name__, expected="key: value lines"
        )
    return tree


def _parse_value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except UNREADABLE:
        return text


def _assign(tree: dict[str, Any], dotted: str, value: Any, where: str) -> None:
    *parents, last = dotted.split(".")
    node: Any = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise SpecError("key lies under a plain value", where=where, got=f"{parent} = {shown(node)}")
    if isinstance(value, dict) and isinstance(node.get(last), dict):
        node[last].update(value)
    else:
        node[last] = value


def _build(kind: type, tree: Any, path: str) -> Any:
    tree = _plain(tree)
    if kind is DtypeSpec and isinstance(tree, str):
        tree = {"c": tree, "ba": tree}
    if not isinstance(tree, Mapping):
        raise SpecError("key takes a tree of keys", where=path, got=shown(tree))
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in tree.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in fields:
            raise _unknown_key(str(key), where, list(fields))
        values[key] = _value(hints[key], value, where)
    for name, entry in fields.items():
        if name not in values and entry.default is entry.default_factory is dataclasses.MISSING:
            raise SpecError("a key is missing in the spec", where=path, expected=name)
    return kind(**values)


def _unknown_key(key: str, where: str, known: list[str]) -> SpecError:
    hint = " ".join(filter(None, (did_you_mean(key, known), SHOW_ALL)))
    return SpecError("unknown key in the spec", where=where, expected=", ".join(known), next_step=hint)


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    value = _plain(value)
    if type(value) is int and value.bit_length() > MOST_BITS:
        raise SpecError("value out of range", where=where, got=f"a number of {value.bit_length()} bits")
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in allowed and type(value) is int:
        return float(value)
    if typing.get_origin(hint) is tuple:
        return _entries(typing.get_args(hint)[0], value, where)
    for kind in allowed:
        if typing.get_origin(kind) is dict and isinstance(value, dict):
            return {_text(k, where): _text(v, where) for k, v in value.items()}
        if type(value) is kind:
            return value
    raise _wrong_type(value, allowed, where)


def _plain(value: Any) -> Any:
    """What a spec of plain values holds instead of a path, a scalar of numpy's or torch's, or a torch dtype."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value).__module__ == "torch" and type(value).__name__ == "dtype":  # which is not imported here
        return str(value).removeprefix("torch.")
    return plain(value)


def _entries(kind: type, value: Any, where: str) -> tuple:
    if not isinstance(value, list | tuple):
        raise SpecError("key takes a list", where=where, got=shown(value), expected="- key: value lines")
    return tuple(_build(kind, entry, f"{where}[{number}]") for number, entry in enumerate(value))


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong_type(value, (str,), where)
    return value


def _wrong_type(value: Any, allowed: tuple, where: str) -> SpecError:
    names = " or ".join("null" if kind is types.NoneType else kind.__name__ for kind in allowed)
    hint = SHOW_ALL
    if isinstance(value, str) and float in allowed:
        hint = f"YAML reads 1e-4 as a string; write 1.0e-4. {SHOW_ALL}"
    return SpecError("wrong type in the spec", where=where, got=shown(value), expected=names, next_step=hint)
