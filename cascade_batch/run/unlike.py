"""What tells two images apart that somebody took for one: told to people whose stored embeddings were not found."""

import json
from collections.abc import Mapping
from typing import Any

from cascade_batch.model.conditions import of_stage
from cascade_batch.model.stages import BA
from cascade_batch.run.stage_keys import SOURCES

_OF_IMAGE = (
    "prompt",
    "negative_prompt",
    "seed",
    "width",
    "height",
    "prior_steps",
    "prior_guidance_scale",
    "conditions",
)
COMPARED = ("prompt_id", *_OF_IMAGE, "error_code", "embedding_sha256")
"""Manifest columns that `unlike` looks at."""
MOST = 80
"""Characters of a value that are shown."""


def unlike(
    stored: Mapping[str, Any],
    stored_shared: Mapping[str, Any],
    asked: Mapping[str, Any],
    asked_shared: Mapping[str, Any],
) -> str:
    """What Stage C was asked for there and is asked for here, of a manifest row and a row of `IMAGE_REQUESTS`.

    `..._shared`: `KeyMaker.shared_c` of each. Empty if nothing differs.
    """
    there, here = _told(stored, stored_shared), _told(asked, asked_shared)
    names = [name for name in there | here if there.get(name) != here.get(name)]
    told = [f"{name} is {_shown(there.get(name))} there, {_shown(here.get(name))} here" for name in names]
    if not told and stored["embedding_sha256"] is None:
        told = [f"it failed there with {stored['error_code']}"]
    return f"image of {stored['prompt_id']!r}: {'; '.join(told)}" if told else ""


def _told(row: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    conditions = json.loads(row["conditions"] or "{}")
    for name in (SOURCES, *(condition.column for condition in of_stage(BA))):
        conditions.pop(name, None)
    weights = {f"weights of {part}": digest for part, digest in shared["weights"].items()}
    plain = {name: value for name, value in shared.items() if name != "weights"}
    return {**{name: row[name] for name in _OF_IMAGE}, "conditions": conditions, **plain, **weights}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST else f"{text[:MOST]}..."
