"""Printing editions as people read them."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from cascade_batch.collection.editions import Edition
from cascade_batch.collection.place import Collection

_COUNTS = ("images", "failed", "new", "changed", "withdrawn", "rendered", "decoded", "reused")
SHORT = 12
"""Digits of a sha256 that people are shown."""


def print_history(history: Iterable[Edition], fates: Mapping[int, str]) -> None:
    """One line an edition, the newest first."""
    lines = [["edition", "when (UTC)", "kind", *_COUNTS, "name"]]
    for edition in history:
        counts = [f"{getattr(edition.counts, name):,}" for name in _COUNTS]
        kind = f"{edition.kind}{'' if edition.of is None else f' {edition.of}'}"
        fate = fates.get(edition.number)
        name = " ".join([*([edition.name] if edition.name else []), *([f"({fate})"] if fate else [])])
        lines.append([str(edition.number), when(edition), kind, *counts, name])
    print("\n".join(aligned(lines, left=(1, 2, len(lines[0]) - 1))))


def aligned(lines: Sequence[Sequence[str]], left: Sequence[int]) -> list[str]:
    """Cells in columns; those of `left` begin below each other, the others end so."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def when(edition: Edition) -> str:
    return datetime.fromisoformat(edition.created).strftime("%Y-%m-%d %H:%M")


def print_edition(edition: Edition, collection: Collection, fate: str | None) -> None:
    """All that an edition says of itself."""
    counts, table = edition.counts, edition.table
    of = "" if edition.of is None else f" from edition {edition.of}"
    print(f"edition   {edition.number}, {edition.kind}{of}, {when(edition)} UTC")
    if edition.name:
        print(f"name      {edition.name}")
    if fate:
        told = "can be read no more, or not whole" if fate == "swept" else "restore it, or lose it"
        print(f"gc        {fate}: {told}")
    print(f"prompts   {table.get('prompts', 0):,} of {table.get('root', 'a table')}")
    print(
        f"images    {counts.images:,}, {counts.failed:,} failed, {counts.stale:,} of them with an older picture"
    )
    print(
        f"changes   {counts.new:,} new, {counts.changed:,} changed, {counts.carried:,} in other columns alone, "
        f"{counts.withdrawn:,} withdrawn"
    )
    print(f"pictures  {counts.rendered:,} rendered, {counts.decoded:,} decoded, {counts.reused:,} reused")
    for label, run in zip(
        ["runs     ", *["         "] * len(edition.runs)], edition.runs.items(), strict=False
    ):
        print(f"{label} {run[0]}: {run[1]:,} pictures")
    weights = ", ".join(f"{part} {digest[:SHORT]}" for part, digest in sorted(edition.weights.items()))
    print(f"weights   {weights}")
    dtypes = ", ".join(f"{name} {dtype}" for name, dtype in edition.dtypes.items())
    print(f"numerics  version {edition.numerics}, {dtypes}; {edition.versions}")
    print(f"read      duckdb -c \"FROM delta_scan('{collection.table.url}')\", or any reader of Delta Lake")
