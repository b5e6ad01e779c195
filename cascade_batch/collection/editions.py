"""What an edition says of itself, kept as JSON in the metadata of the Delta commit that made it."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from cascade_batch.collection.delta.table import DeltaTableAt

REGENERATED, RESTORED, REPAIRED = "regenerated", "restored", "repaired"


@dataclass(frozen=True)
class Counts:
    """Images of an edition, by what was done for them and by how they differ from the edition before."""

    images: int = 0
    failed: int = 0
    """Without a picture, or with a stale one."""
    stale: int = 0
    """Showing the last good picture, made for other values."""
    reused: int = 0
    """Their pictures were known."""
    decoded: int = 0
    """Their embeddings were known: Stage B and A were rendered."""
    rendered: int = 0
    """Both stages were rendered."""
    new: int = 0
    """Of `images`, those that the edition before had not."""
    withdrawn: int = 0
    """Images that the edition before had, and this one has not."""
    changed: int = 0
    """Of `images`, those whose picture is another than in the edition before."""
    carried: int = 0
    """Of `images`, those of which only other columns changed."""


@dataclass(frozen=True)
class Edition:
    """One edition. Its number is the version of the Delta table."""

    number: int
    kind: str
    """regenerated, restored or repaired."""
    name: str | None
    """Given by `--edition`, one edition for each name."""
    created: str
    """ISO 8601, UTC."""
    spec: Mapping[str, Any]
    """The resolved spec, as a run's `run.json` has it."""
    table: Mapping[str, Any]
    """The prompt table: `root`, `digest`, `prompts`, `files`; `fingerprint`, which stays while nothing of it changes
    ("" if nothing tells); `settings`, a hash of the settings that decide which images there are, and their keys."""
    weights: Mapping[str, str]
    """sha256 of each part, as a run's `weights.json` has them."""
    located: str
    """Fingerprint of the weights' files by name, size and ETag or time: while it stays, they are not hashed again."""
    dtypes: Mapping[str, str]
    """By pool: what `auto` was settled to, which later editions keep."""
    numerics: int
    """The program's numerics version."""
    versions: str
    """Of this program, torch and transformers."""
    counts: Counts
    runs: Mapping[str, int]
    """Pictures by the run that they lie in."""
    run: str | None = None
    """The run that was rendered for this edition, None if nothing was."""
    of: int | None = None
    """The edition that was restored or repaired."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """`reuse`, `retry_failed`, `keep_stale`."""

    def to_json(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"counts": asdict(self.counts)}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "Edition":
        """Unknown keys, of later programs, are left out."""
        known = {f.name: tree[f.name] for f in fields(cls) if f.name in tree}
        counts = {f.name: tree["counts"][f.name] for f in fields(Counts) if f.name in tree["counts"]}
        return cls(**{**known, "counts": Counts(**counts)})


def editions_in(metadata: Iterable[Mapping[str, Any]]) -> list[Edition]:
    """The editions among the metadata of a table's commits, in the same order; other commits have no edition."""
    return [Edition.from_json(tree["edition"]) for tree in metadata if "edition" in tree]


def editions_of(table: DeltaTableAt) -> list[Edition]:
    """All editions of a collection's table, newest first."""
    return editions_in(commit.metadata for commit in table.history())
