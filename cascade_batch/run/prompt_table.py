"""What is known of an opened prompt table: its files, their layout, and the carried columns' types.

It holds no rows, is picklable, and goes into `run.json` as it stands, a few hundred bytes a file.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class PromptFile:
    """One Parquet file; `path` is relative to the table's root."""

    path: str
    size: int
    rows: int
    footer_sha256: str
    etag: str | None
    planned: tuple[str, ...]
    """Those of our columns that decide identity and cost and that this file has."""
    modified: float | None = field(default=None, compare=False)
    """When the file was last changed, where the store tells; None in a table that was read from `run.json`."""


@dataclass(frozen=True)
class PromptTable:
    """The files of a prompt table in path order, which is the order of its rows."""

    root: str
    columns: dict[str, str]
    """Our or carried name -> the table's, where they differ."""
    files: tuple[PromptFile, ...]
    carried: pa.Schema
    """The table's own columns, with types that hold the values of every file."""
    null_prompts: int | None
    """Rows without a prompt, from footer statistics; None where a footer does not say."""
    conditions: tuple[str, ...] = ()
    """Those of our columns that condition images on more than text and that some file has."""
    layouts: tuple[int, ...] = field(default=(), compare=False)
    """One file of each layout of columns, by its place in `files`; none in a table that was read from `run.json`."""
    query: str = field(default="", repr=False, compare=False)
    """What requests to the web server that has the table need: a signature perhaps, so it is written nowhere."""

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def default_ids(self) -> bool:
        """Whether some prompts are named by file and row, so that inserting rows changes later seeds."""
        return any("id" not in file.planned for file in self.files)

    @property
    def digest(self) -> str:
        """sha256 over relative path, size, footer hash and ETag of every file."""
        listed = [[file.path, file.size, file.footer_sha256, file.etag] for file in self.files]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()

    @property
    def fingerprint(self) -> str | None:
        """The same with the time of the last change where there is no ETag, None where a store tells neither.

        Footers are equal where only places of values have changed, so the digest alone cannot tell such files apart.
        """
        versions = [file.etag or file.modified for file in self.files]
        if None in versions:
            return None
        return hashlib.sha256(json.dumps([self.digest, versions]).encode()).hexdigest()

    def where(self, file: PromptFile, row: int | None = None) -> str:
        """A file, and a row of it counted from 0, as error messages name them."""
        return f"{self.root}/{file.path}" + ("" if row is None else f", row {row}")

    def to_json(self) -> dict[str, Any]:
        """Plain values for `run.json`."""
        return {
            "root": self.root,
            "columns": self.columns,
            "carried": base64.b64encode(self.carried.serialize()).decode(),
            "null_prompts": self.null_prompts,
            "conditions": list(self.conditions),
            "digest": self.digest,
            "files": [
                [f.path, f.size, f.rows, f.footer_sha256, f.etag, " ".join(f.planned)] for f in self.files
            ],
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "PromptTable":
        """The table that `to_json` wrote."""
        carried = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(tree["carried"])))
        files = tuple(PromptFile(*values, planned=tuple(names.split())) for *values, names in tree["files"])
        conditions = tuple(tree["conditions"])
        return cls(tree["root"], tree["columns"], files, carried, tree["null_prompts"], conditions)

    def at(self, root: str, query: str = "") -> "PromptTable":
        """The same table where it lies now, if it was moved (`root`), or is read through other URLs (`query`)."""
        return replace(self, root=root or self.root, query=query)
