"""Printing what changed between two editions: counts and some prompts for people, every prompt for machines."""

import json
from collections.abc import Iterable
from typing import Any

import pyarrow.compute as pc

from cascade_batch.cli.editions import SHORT, when
from cascade_batch.collection.care.diffing import ADDED, CARRIED, CHANGED, KINDS, VALUES, WITHDRAWN, Diff
from cascade_batch.collection.delta.table import DeltaTableAt

SHOWN = 10
LONGEST = 60
"""Characters of a text that are shown."""
_LABELS = {ADDED: "added", WITHDRAWN: "withdrawn", CHANGED: "changed", CARRIED: "columns"}


def print_diff(found: Diff, table: DeltaTableAt) -> None:
    """Aligned lines; of each kind the first prompts."""
    a, b = found.before, found.after
    print(f"edition   {a.number} ({when(a)}) > {b.number} ({when(b)})")
    for change in found.record:
        print(f"made with {change.name}: {_short(change.was)} > {_short(change.now)}")
    for label, names in (("new", found.columns_added), ("dropped", found.columns_dropped)):
        if names:
            print(f"columns   {label}: {', '.join(names)}")
    for kind in KINDS:
        prompts = found.count(kind)
        if prompts:
            reasons = ", ".join(f"{name} {count:,}" for name, count in found.counts_of_reasons(kind).items())
            images = f", {found.images[kind]:,} images" if found.images[kind] != prompts else ""
            print(f"{_LABELS[kind]:<9} {_plural(prompts)}{images}{f': {reasons}' if reasons else ''}")
            _print_prompts(found, table, kind)
    if not (found.kinds >= 0).any():
        print("no prompt is added, withdrawn or changed")


def _plural(prompts: int) -> str:
    return f"{prompts:,} prompt{'s' if prompts > 1 else ''}"


def _print_prompts(found: Diff, table: DeltaTableAt, kind: str) -> None:
    shown = list(found.prompts(kind, SHOWN))
    told = _told(found, table, [change.prompt_id for change in shown]) if kind == CHANGED else {}
    width = min(40, max(len(change.prompt_id) for change in shown))
    for change in shown:
        lines = told.get(change.prompt_id) or [", ".join(change.why)]
        print(f"          {change.prompt_id:<{width}}  {lines[0]}".rstrip())
        for line in lines[1:]:
            print(f"          {'':<{width}}  {line}")
    if found.count(kind) > len(shown):
        print(f"          ... and {found.count(kind) - len(shown):,} more; --json names them all")


def _told(found: Diff, table: DeltaTableAt, prompt_ids: list[str]) -> dict[str, list[str]]:
    """Of each prompt the values that changed, as its first image has them."""
    before, after = (
        _first_images(table, edition.number, prompt_ids) for edition in (found.before, found.after)
    )
    return {
        prompt_id: [
            f"{name.replace('_', ' ')}: {_short(before[prompt_id][name])} > {_short(after[prompt_id][name])}"
            for name in VALUES
            if before[prompt_id][name] != after[prompt_id][name]
        ]
        for prompt_id in before.keys() & after.keys()
    }


def _first_images(table: DeltaTableAt, version: int, prompt_ids: list[str]) -> dict[str, dict[str, Any]]:
    columns = ["prompt_id", "image_index", *VALUES]
    rows = table.read(columns, version=version, where=pc.field("prompt_id").isin(prompt_ids)).to_pylist()
    return {row["prompt_id"]: row for row in sorted(rows, key=lambda row: -row["image_index"])}


def _short(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef"):
        return value[:SHORT]
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]}...{text[-1]}"


def print_diff_json(found: Diff) -> None:
    """A summary, then one line for each prompt that is not as it was."""
    summary = {
        "before": found.before.number,
        "after": found.after.number,
        "prompts": {kind: found.count(kind) for kind in KINDS},
        "images": found.images,
        "reasons": {kind: found.counts_of_reasons(kind) for kind in (CHANGED, CARRIED)},
        "made_with": [change._asdict() for change in found.record],
        "columns_added": list(found.columns_added),
        "columns_dropped": list(found.columns_dropped),
    }
    _print_lines([summary])
    _print_lines(
        {"prompt_id": change.prompt_id, "difference": kind, "why": list(change.why)}
        for kind in KINDS
        for change in found.prompts(kind)
    )


def _print_lines(values: Iterable[Any]) -> None:
    for value in values:
        print(json.dumps(value, sort_keys=True))
