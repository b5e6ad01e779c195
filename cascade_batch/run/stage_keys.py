"""Stage keys: one hash that names a picture by all that decides it.

Two images with equal keys are the same picture up to the numerics of their devices; the sha256
columns beside a key name the bits.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cascade_batch.model.numerics import NUMERICS_VERSION
from cascade_batch.model.parts import LORAS, STAGE_BA_PARTS, STAGE_C_PARTS, parts_for
from cascade_batch.model.sampling import Sampling, StageSampling, guides
from cascade_batch.model.texts import PUBLISHED, TextOptions

SOURCES = "sources"
"""In a row's conditions: the paths and URLs of its pictures, which do not decide the image."""


def stage_c_key(
    request: Mapping[str, Any],
    weights: Mapping[str, str],
    dtype: str,
    sampling: StageSampling,
    text: TextOptions = PUBLISHED,
) -> str:
    """Key of an embedding.

    Args:
        request: a row of `run.schemas.IMAGE_REQUESTS`, with the conditions of this stage.
        weights: sha256 of each part, as in `weights.json`.
    """
    guided = guides(request["prior_guidance_scale"])
    conditions = _conditions(request)
    parts = (*STAGE_C_PARTS, LORAS, *parts_for(conditions, with_super_resolution=True))
    return _hash(
        {
            "stage": "c",
            **({"conditions": conditions} if conditions else {}),
            "prompt": request["prompt"],
            # The decoder reads the negative text too, so it decides even where the prior is unguided.
            "negative_prompt": request["negative_prompt"],
            "seed": request["seed"],
            "height": request["height"],
            "width": request["width"],
            "steps": request["prior_steps"],
            "guidance_scale": request["prior_guidance_scale"] if guided else None,
            "sampler": asdict(sampling),
            "weights": {part: weights[part] for part in parts if part in weights},
            "dtype": dtype,
            "numerics": NUMERICS_VERSION,
            # Left out where they are the defaults: keys are older than these options.
            **({"text": asdict(text)} if text != PUBLISHED else {}),
        }
    )


def stage_ba_key(
    request: Mapping[str, Any], c_key: str, weights: Mapping[str, str], dtype: str, sampling: Sampling
) -> str:
    """Key of a picture: that of its embedding and all that Stage B and A add."""
    guided = guides(request["decoder_guidance_scale"])
    conditions = _conditions(request)
    return _hash(
        {
            "stage": "ba",
            **({"conditions": conditions} if conditions else {}),
            "stage_c_key": c_key,
            "seed": request["seed"],
            "height": request["height"],
            "width": request["width"],
            "steps": request["decoder_steps"],
            "guidance_scale": request["decoder_guidance_scale"] if guided else None,
            "sampler": asdict(sampling.ba),
            "stage_a_scale": sampling.stage_a_scale,
            **({"stage_a_tile": sampling.stage_a_tile} if sampling.stage_a_tile else {}),
            "weights": {part: weights[part] for part in STAGE_BA_PARTS},
            "dtype": dtype,
            "numerics": NUMERICS_VERSION,
        }
    )


def _conditions(request: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the image, without where it came from."""
    conditions = json.loads(request["conditions"] or "{}")
    conditions.pop(SOURCES, None)
    return conditions


def _hash(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
