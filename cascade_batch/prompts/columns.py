"""The columns of a prompt table: which are ours, what types they may have, how names are mapped.

Names are *ours* (`COLUMNS`) or *carried* (anything else). `prompts.columns` maps our name to the table's;
an entry whose key is not one of ours renames a carried column, which resolves clashes with the manifest.
"""

from collections.abc import Collection, Iterable, Mapping

import pyarrow as pa
import pyarrow.types as t

from cascade_batch.errors import PromptTableError, closest, did_you_mean
from cascade_batch.model.conditions import CONDITIONS, Kind
from cascade_batch.prompts.types import plain, unified

_WHOLE = ("a whole number", (t.is_integer,), pa.int64())
_REAL = ("a number", (t.is_integer, t.is_floating), pa.float64())
_TEXT = ("text", (t.is_string, t.is_large_string), pa.string())

AS_STORED = None
"""In place of the type a column is read as."""


def _is_picture(kind: pa.DataType) -> bool:
    """Encoded bytes, a path or URL, or Hugging Face's struct of both."""
    is_struct = t.is_struct(kind) and set(kind.names) == {"bytes", "path"}
    return is_struct or any(
        check(kind) for check in (t.is_binary, t.is_large_binary, t.is_string, t.is_large_string)
    )


def _is_pictures(kind: pa.DataType) -> bool:
    return _is_picture(kind) or (_is_list(kind) and _is_picture(kind.value_type))


def _is_list(kind: pa.DataType) -> bool:
    return t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind)


def _is_numbers(kind: pa.DataType) -> bool:
    """Lists of numbers, nested at will, or a tensor."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return t.is_floating(kind.value_type)
    return _is_list(kind) and (
        t.is_floating(kind.value_type) or t.is_integer(kind.value_type) or _is_numbers(kind.value_type)
    )


_PICTURE = ("bytes, a path or URL, or {bytes, path}", (_is_picture,), AS_STORED)
_PICTURES = (
    "pictures (bytes, a path or URL, or {bytes, path}), or lists of them",
    (_is_pictures,),
    AS_STORED,
)
_NUMBERS = ("a list or tensor of numbers", (_is_numbers,), AS_STORED)

_OF_KIND = {
    Kind.PICTURE: _PICTURE,
    Kind.MASK: _PICTURE,
    Kind.PICTURES: _PICTURES,
    Kind.EMBEDS: _NUMBERS,
    Kind.TOKENS: _NUMBERS,
    Kind.POOLED: _NUMBERS,
    Kind.LATENTS: _NUMBERS,
    Kind.FACTOR: _REAL,
    Kind.REAL: _REAL,
    Kind.TIMES: _NUMBERS,
}

COLUMNS = {
    "prompt": _TEXT,
    "id": ("text or a whole number", (t.is_string, t.is_large_string, t.is_integer), pa.string()),
    "negative_prompt": _TEXT,
    "seed": _WHOLE,
    "num_images": _WHOLE,
    "width": _WHOLE,
    "height": _WHOLE,
    "prior_steps": _WHOLE,
    "prior_guidance_scale": _REAL,
    "decoder_steps": _WHOLE,
    "decoder_guidance_scale": _REAL,
    **{name: _OF_KIND[condition.kind] for name, condition in CONDITIONS.items()},
}
"""Our columns: what each holds, the checks one of which its type must pass, and the type it is read as."""

PLANNED = tuple(name for name in COLUMNS if name not in ("prompt", "negative_prompt", *CONDITIONS))
"""The columns that decide identity and cost: all that planning ever reads."""

_PROMPT_LIKE = ("caption", "text", "prompts", "description", "title")


def sources(names: Iterable[str], mapping: Mapping[str, str], where: str = "") -> dict[str, str]:
    """Our or carried name -> the table's, for the columns of one file.

    Raises PromptTableError if two columns would get one name.
    """
    names = list(names)
    present, taken = set(names), set(mapping.values())
    if len(present) < len(names):
        raise _doubled(next(name for name in names if names.count(name) > 1), where)
    found = {ours: theirs for ours, theirs in mapping.items() if theirs in present}
    for name in names:
        if name in taken:
            continue
        if name in mapping:
            raise PromptTableError(
                f"two columns would be called {name!r}",
                where=where,
                got=f"{name} and {mapping[name]}",
                next_step=f"give the table's own column another name: --column source_{name}={name}",
            )
        found[name] = name
    return found


def _doubled(name: str, where: str) -> PromptTableError:
    return PromptTableError(
        f"two columns are called {name!r}",
        where=where,
        expected="names that tell columns apart: no option can, since it names them too",
        next_step="write the file again under other names",
    )


def check_mapping(names: Collection[str], mapping: Mapping[str, str], where: str) -> None:
    """Raise PromptTableError for a mapped column that no file has."""
    for ours, theirs in mapping.items():
        if theirs not in names:
            raise PromptTableError(
                f"no file has the column {theirs!r} that is to be {ours!r}",
                where=where,
                got=f"--column {ours}={theirs}",
                expected=f"one of {_listed(names)}",
                next_step=did_you_mean(theirs, names, f"--column {ours}=".__add__),
            )


def check_ours(schema: pa.Schema, found: Mapping[str, str], where: str) -> None:
    """Raise PromptTableError unless there is a prompt column and each of ours has a type that we read."""
    if "prompt" not in found:
        raise _no_prompt(schema.names, where)
    for ours, theirs in found.items():
        if ours not in COLUMNS:
            continue
        kind = plain(schema.field(theirs).type)
        expected, checks, _ = COLUMNS[ours]
        if not (t.is_null(kind) or any(check(kind) for check in checks)):
            raise PromptTableError(
                f"the column {theirs!r} has a type that cannot be {ours!r}",
                where=where,
                got=schema.field(theirs).type,
                expected=expected,
                next_step=_type_advice(ours, theirs, kind),
            )


def carried_fields(schema: pa.Schema, found: Mapping[str, str]) -> dict[str, pa.DataType]:
    """Name and plain type of each carried column of one file."""
    return {name: plain(schema.field(source).type) for name, source in found.items() if name not in COLUMNS}


def check_reserved(carried: Iterable[str], reserved: Collection[str], where: str) -> None:
    """Raise PromptTableError for a carried name of the manifest, in any case (Spark ignores it)."""
    lower = {name.lower(): name for name in [*reserved, *COLUMNS]}
    for name in carried:
        if name.lower() in lower:
            raise PromptTableError(
                f"the column {name!r} has a name that the manifest uses",
                where=where,
                got=name,
                expected="names that differ from the manifest's, upper and lower case being the same",
                next_step=f"carry it under another name: --column source_{name.lower()}={name}",
            )


def unify(carried: Iterable[tuple[str, Mapping[str, pa.DataType]]]) -> pa.Schema:
    """One schema for the carried columns of all files, in order of first appearance.

    Args:
        carried: for each distinct layout a file that has it, and its carried columns.

    Raises PromptTableError naming the column, both files and both types where no type holds both.
    """
    first: dict[str, tuple[str, pa.DataType]] = {}
    for path, fields in carried:
        for name, kind in fields.items():
            other_path, other = first.get(name, (path, kind))
            both = unified(other, kind)
            if both is None:
                raise PromptTableError(
                    f"the column {name!r} has types that do not go together",
                    where=f"{other_path} and {path}",
                    got=f"{other} and {kind}",
                    expected="one type, or types of one kind (whole numbers, floats, text)",
                    next_step="cast the column in one of the files",
                )
            first[name] = (other_path if both == other else path, both)
    return pa.schema([(name, kind) for name, (_, kind) in first.items()])


def _no_prompt(names: list[str], where: str) -> PromptTableError:
    lower = {name.lower(): name for name in reversed(names)}
    likely = [lower[word] for word in ("prompt", *_PROMPT_LIKE) if word in lower]
    alike = closest("prompt", lower)
    guess = likely[0] if likely else lower[alike] if alike else "NAME"
    return PromptTableError(
        "the prompt table has no column 'prompt'",
        where=where,
        got=_listed(names),
        next_step=f"name the column that holds the prompts: --column prompt={guess}",
    )


def _type_advice(ours: str, theirs: str, kind: pa.DataType) -> str:
    if t.is_floating(kind):
        return f"pandas turns whole numbers with gaps into floats: use df[{theirs!r}].astype('Int64')"
    return f"cast the column, or carry it under another name: --column source_{ours}={theirs}"


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:30])
    return shown + (f" and {len(names) - 30} more" if len(names) > 30 else "")
