"""Value checks of a built spec: ranges, choices, and what cannot work at all."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from cascade_batch.errors import PromptTableError, SpecError, did_you_mean
from cascade_batch.model import dtypes
from cascade_batch.model.geometry import check_side
from cascade_batch.model.sampling import METHODS, PRESETS, RESULTS
from cascade_batch.model.stages import STAGES
from cascade_batch.model.texts import LONG_PROMPTS
from cascade_batch.settings.tree import (
    AUTO_BATCH,
    PROBE_BATCH,
    DtypeSpec,
    LoraSpec,
    PoolSpec,
    SamplerSpec,
    Spec,
)
from cascade_batch.settings.values import RANGES, shown, text
from cascade_batch.storage.urls import is_url

MOST = 2**31
MOST_BATCH, MOST_THREADS = 4096, 1024
"""Beyond what any device fills; a slip of the finger would take all memory."""
LEAST_GPU_SHARE = 0.001
MOST_NAME = 255
"""Bytes of a file's name, on the file systems there are."""
MAY_BE_EMPTY = ("prompts.uri", "output.uri", "render.negative_prompt")
"""Texts that say something empty, or that the command line asks for where they are needed."""


def check(spec: Spec) -> None:
    """Raise SpecError for the first value that is out of its range or not a known choice."""
    for key, value in _texts(asdict(spec), ""):
        _check_text(key, value)
    _check_dtypes(spec.model.dtype)
    _check_loras(spec.model.loras)
    _choice("log.level", spec.log.level, ("debug", "info", "warning", "error"))
    _choice("log.format", spec.log.format, ("text", "json"))
    _check_sampler(spec.sampler)
    _choice("text.long_prompts", spec.text.long_prompts, LONG_PROMPTS)
    _range("output.png_level", spec.output.png_level, 0, 12)
    _range("seed", spec.seed, *RANGES["seed"])
    for stage in STAGES:
        _check_pool(f"pools.{stage.key}", spec.pools[stage])
    for name in ("width", "height"):
        side = getattr(spec.render, name)
        try:
            check_side(f"render.{name}", side)
        except PromptTableError as error:
            raise SpecError(str(error)) from None
    for key, value, low, high in _numbers(spec):
        _range(key, value, low, high)


def _texts(tree: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every text of a tree of plain values, and the key it stands under."""
    if isinstance(tree, str):
        yield key, tree
    elif isinstance(tree, dict):
        for name, value in tree.items():
            yield f"{key}.{name}".strip("."), name
            yield from _texts(value, f"{key}.{name}".strip("."))
    elif isinstance(tree, tuple):
        for number, value in enumerate(tree):
            yield from _texts(value, f"{key}[{number}]")


def _check_text(key: str, value: str) -> None:
    text(value, key)
    if key == "render.negative_prompt" or (key in MAY_BE_EMPTY and not value):
        return
    if not value.strip():
        raise SpecError("a text that says nothing", where=key, got=repr(value), next_step="leave the key out")
    if "\0" in value:
        raise SpecError("a text with a NUL character", where=key, got=repr(value))
    if not is_url(value) and any(len(part.encode()) > MOST_NAME for part in value.split("/")):
        raise SpecError(
            "too long for a name", where=key, got=shown(value), expected=f"{MOST_NAME} bytes at most"
        )


def _numbers(spec: Spec) -> Iterator[tuple[str, float, float, float]]:
    """Key, value, least and greatest of each number that needs no more than that."""
    render = asdict(spec.render)
    for name in RANGES.keys() & render.keys():
        yield f"render.{name}", render[name], *RANGES[name]
    for key, value, low in (
        ("shards.prompts", spec.shards.prompts, 1),
        ("shards.images", spec.shards.images, 1),
        ("prompts.limit", spec.prompts.limit, 0),
        ("limits.failed_rows", spec.limits.failed_rows, 0),
        ("limits.attempts", spec.limits.attempts, 2),
        ("limits.picture_pixels", spec.limits.picture_pixels, 1),
    ):
        if value is not None:
            yield key, value, low, MOST


def _check_pool(key: str, pool: PoolSpec) -> None:
    _check_batch(f"{key}.batch", pool.batch)
    for name, low, high in (
        ("actors", 1, MOST),
        ("max_actors", pool.actors or 1, MOST),
        ("gpus", 0, MOST),
        ("threads", 1, MOST_THREADS),
    ):
        if (value := getattr(pool, name)) is not None:
            _range(f"{key}.{name}", value, low, high)
    gpus = pool.gpus or 1
    if gpus < LEAST_GPU_SHARE or (gpus > 1 and gpus % 1):
        raise SpecError(
            "no share of a GPU",
            where=f"{key}.gpus",
            got=gpus,
            expected=f"0, {LEAST_GPU_SHARE} to 1, or a whole number",
        )


def _check_batch(key: str, batch: int | str) -> None:
    if isinstance(batch, int):
        _range(key, batch, 1, MOST_BATCH)
    elif batch not in (AUTO_BATCH, PROBE_BATCH):
        raise SpecError(
            "not a batch size", where=key, got=batch, expected=f"a number, {AUTO_BATCH} or {PROBE_BATCH}"
        )


def _check_sampler(sampler: SamplerSpec) -> None:
    _choice("sampler.preset", sampler.preset, tuple(PRESETS))
    for name, stage in (("c", sampler.c), ("ba", sampler.ba)):
        for key, allowed in (("method", METHODS), ("result", RESULTS)):
            if (value := getattr(stage, key)) is not None:
                _choice(f"sampler.{name}.{key}", value, allowed)
        for key, limits in _STAGE_RANGES.items():
            if (value := getattr(stage, key)) is not None:
                _range(f"sampler.{name}.{key}", value, *limits)
    if sampler.stage_a_scale is not None:
        _range("sampler.stage_a_scale", sampler.stage_a_scale, 0.01, 100)
    if sampler.stage_a_tile is not None:
        _range("sampler.stage_a_tile", sampler.stage_a_tile, *RANGES["stage_a_tile"])


_STAGE_RANGES = {
    "shift": (0.01, 100),
    "guidance_rescale": (0, 1),
    "guidance_end": RANGES["prior_guidance_scale"],
    "guidance_from": (0, 1),
    "guidance_to": (0, 1),
}


def _check_loras(loras: tuple[LoraSpec, ...]) -> None:
    for number, lora in enumerate(loras):
        for name, value in (("weight", lora.weight), ("alpha", lora.alpha)):
            if value is not None:
                _range(f"model.loras[{number}].{name}", value, -MOST, MOST)


def _check_dtypes(dtype: DtypeSpec) -> None:
    dtypes.refuse_float16(dtype.c, SpecError, "model.dtype.c")
    _choice("model.dtype.c", dtype.c, (dtypes.AUTO, *dtypes.STAGE_C))
    _choice("model.dtype.ba", dtype.ba, (dtypes.AUTO, *dtypes.STAGES_BA))


def _choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        hint = did_you_mean(value, allowed)
        raise SpecError("unknown value", where=key, got=value, expected=", ".join(allowed), next_step=hint)


def _range(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise SpecError("value out of range", where=key, got=value, expected=f"{low} to {high}")
