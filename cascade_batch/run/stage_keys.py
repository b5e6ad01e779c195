"""Stage keys: one hash that names a picture by all that decides it.

Two images with equal keys are the same picture up to the numerics of their devices; the sha256
columns beside a key name the bits.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from json.encoder import encode_basestring_ascii
from typing import Any

from cascade_batch.model.numerics import NUMERICS_VERSION
from cascade_batch.model.parts import LORAS, STAGE_BA_PARTS, STAGE_C_PARTS, parts_for
from cascade_batch.model.sampling import Sampling, StageSampling, guides
from cascade_batch.model.stages import PerPool
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
    conditions = _conditions(request)
    fixed = _fixed_c(weights, dtype, sampling, text, conditions)
    return _hash(fixed | _of_image_c(request))


def stage_ba_key(
    request: Mapping[str, Any], c_key: str, weights: Mapping[str, str], dtype: str, sampling: Sampling
) -> str:
    """Key of a picture: that of its embedding and all that Stage B and A add."""
    fixed = _fixed_ba(weights, dtype, sampling, _conditions(request))
    return _hash(fixed | _of_image_ba(request, c_key))


@dataclass(frozen=True)
class KeyMaker:
    """The keys of many images under one spec, as the functions above make them, in a fraction of their time.

    Images of text alone share most of what is hashed, which is written down once, with gaps for the rest.
    """

    weights: Mapping[str, str]
    """sha256 of each part, as in `weights.json`."""
    dtypes: PerPool[str]
    sampling: Sampling
    text: TextOptions = PUBLISHED

    def c(self, request: Mapping[str, Any]) -> str:
        """`stage_c_key` of a row of `run.schemas.IMAGE_REQUESTS`."""
        if request["conditions"] is None:
            return self._template_c.key(_of_image_c(request))
        return stage_c_key(request, self.weights, self.dtypes.c, self.sampling.c, self.text)

    def ba(self, request: Mapping[str, Any], c_key: str) -> str:
        """`stage_ba_key`, likewise."""
        if request["conditions"] is None:
            return self._template_ba.key(_of_image_ba(request, c_key))
        return stage_ba_key(request, c_key, self.weights, self.dtypes.ba, self.sampling)

    @property
    def shared_c(self) -> dict[str, Any]:
        """What decides every embedding of the spec besides its image: weights, dtype, sampler and so on."""
        return _fixed_c(self.weights, self.dtypes.c, self.sampling.c, self.text, {})

    @cached_property
    def _template_c(self) -> "_Template":
        return _Template(self.shared_c, _OF_IMAGE_C)

    @cached_property
    def _template_ba(self) -> "_Template":
        return _Template(_fixed_ba(self.weights, self.dtypes.ba, self.sampling, {}), _OF_IMAGE_BA)


_OF_IMAGE_C = ("prompt", "negative_prompt", "seed", "height", "width", "steps", "guidance_scale")
_OF_IMAGE_BA = ("stage_c_key", "seed", "height", "width", "steps", "guidance_scale")


def _of_image_c(request: Mapping[str, Any]) -> dict[str, Any]:
    guided = guides(request["prior_guidance_scale"])
    return {
        "prompt": request["prompt"],
        # The decoder reads the negative text too, so it decides even where the prior is unguided.
        "negative_prompt": request["negative_prompt"],
        "seed": request["seed"],
        "height": request["height"],
        "width": request["width"],
        "steps": request["prior_steps"],
        "guidance_scale": request["prior_guidance_scale"] if guided else None,
    }


def _fixed_c(
    weights: Mapping[str, str],
    dtype: str,
    sampling: StageSampling,
    text: TextOptions,
    conditions: Mapping[str, Any],
) -> dict[str, Any]:
    """What images of one spec and equal conditions share."""
    parts = (*STAGE_C_PARTS, LORAS, *parts_for(conditions, with_super_resolution=True))
    return {
        "stage": "c",
        **({"conditions": conditions} if conditions else {}),
        "sampler": asdict(sampling),
        "weights": {part: weights[part] for part in parts if part in weights},
        "dtype": dtype,
        "numerics": NUMERICS_VERSION,
        # Left out where they are the defaults: keys are older than these options.
        **({"text": asdict(text)} if text != PUBLISHED else {}),
    }


def _of_image_ba(request: Mapping[str, Any], c_key: str) -> dict[str, Any]:
    guided = guides(request["decoder_guidance_scale"])
    return {
        "stage_c_key": c_key,
        "seed": request["seed"],
        "height": request["height"],
        "width": request["width"],
        "steps": request["decoder_steps"],
        "guidance_scale": request["decoder_guidance_scale"] if guided else None,
    }


def _fixed_ba(
    weights: Mapping[str, str], dtype: str, sampling: Sampling, conditions: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "stage": "ba",
        **({"conditions": conditions} if conditions else {}),
        "sampler": asdict(sampling.ba),
        "stage_a_scale": sampling.stage_a_scale,
        **({"stage_a_tile": sampling.stage_a_tile} if sampling.stage_a_tile else {}),
        "weights": {part: weights[part] for part in STAGE_BA_PARTS},
        "dtype": dtype,
        "numerics": NUMERICS_VERSION,
    }


class _Template:
    """Canonical JSON with gaps; a gap is a text that no field's value has."""

    def __init__(self, fixed: Mapping[str, Any], gaps: tuple[str, ...]) -> None:
        text = json.dumps({**fixed, **{name: f"\0{name}" for name in gaps}}, sort_keys=True)
        self._pieces = re.split(r'"\\u0000(\w+)"', text)  # a literal, a gap, a literal, ...
        self._gaps = list(enumerate(self._pieces))[1::2]
        assert sorted(self._pieces[1::2]) == sorted(gaps)

    def key(self, values: Mapping[str, Any]) -> str:
        pieces = list(self._pieces)
        for place, name in self._gaps:
            pieces[place] = _as_json(values[name])
        return hashlib.sha256("".join(pieces).encode()).hexdigest()


def _as_json(value: Any) -> str:
    """`json.dumps` of one value; of texts and whole numbers without its detours, which took half of a key's time."""
    if type(value) is str:
        return encode_basestring_ascii(value)
    return str(value) if type(value) is int else json.dumps(value)


def _conditions(request: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the image, without where it came from."""
    conditions = json.loads(request["conditions"] or "{}")
    conditions.pop(SOURCES, None)
    return conditions


def _hash(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
