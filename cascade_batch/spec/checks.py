"""Value checks of a built spec: ranges, choices, and what cannot work at all."""

import difflib
import math

from cascade_batch.errors import PromptTableError, SpecError
from cascade_batch.geometry import MAX_SIDE, MIN_SIDE, check_side
from cascade_batch.sampling import METHODS, PRESETS, RESULTS
from cascade_batch.spec.tree import AUTO_BATCH, PROBE_BATCH, DtypeSpec, LoraSpec, SamplerSpec, Spec
from cascade_batch.texts import LONG_PROMPTS

DTYPES_C = ("auto", "float32", "bfloat16")
DTYPES_BA = ("auto", "float32", "bfloat16", "float16")


def check(spec: Spec) -> None:
    """Raise SpecError for the first value that is out of its range or not a known choice."""
    _check_dtypes(spec.model.dtype)
    _check_loras(spec.model.loras)
    _choice("log.level", spec.log.level, ("debug", "info", "warning", "error"))
    _choice("log.format", spec.log.format, ("text", "json"))
    _check_sampler(spec.sampler)
    _choice("text.long_prompts", spec.text.long_prompts, LONG_PROMPTS)
    _range("output.png_level", spec.output.png_level, 0, 12)
    _range("seed", spec.seed, 0, 2**63 - 1)
    for name, pool in (("c", spec.pools.c), ("ba", spec.pools.ba)):
        _check_batch(f"pools.{name}.batch", pool.batch)
        if pool.max_actors is not None:
            _range(f"pools.{name}.max_actors", pool.max_actors, pool.actors or 1, 2**31)
    for name in ("width", "height"):
        side = getattr(spec.render, name)
        try:
            check_side(f"render.{name}", side)
        except PromptTableError as error:
            raise SpecError(str(error)) from None
    for key, value, low in _minimums(spec):
        if value is not None:
            _range(key, value, low, 2**31)


def _minimums(spec: Spec) -> list[tuple[str, float | None, int]]:
    render, pools = spec.render, spec.pools
    return [
        ("render.num_images", render.num_images, 1),
        ("render.prior_steps", render.prior_steps, 1),
        ("render.decoder_steps", render.decoder_steps, 1),
        ("render.prior_guidance_scale", render.prior_guidance_scale, 0),
        ("render.decoder_guidance_scale", render.decoder_guidance_scale, 0),
        ("shards.prompts", spec.shards.prompts, 1),
        ("shards.images", spec.shards.images, 1),
        ("prompts.limit", spec.prompts.limit, 0),
        ("limits.failed_rows", spec.limits.failed_rows, 0),
        ("limits.attempts", spec.limits.attempts, 2),
        *((f"pools.{n}.actors", p.actors, 1) for n, p in (("c", pools.c), ("ba", pools.ba))),
        *((f"pools.{n}.gpus", p.gpus, 0) for n, p in (("c", pools.c), ("ba", pools.ba))),
        *((f"pools.{n}.threads", p.threads, 1) for n, p in (("c", pools.c), ("ba", pools.ba))),
    ]


def _check_batch(key: str, batch: int | str) -> None:
    if isinstance(batch, int):
        _range(key, batch, 1, 2**31)
    elif batch not in (AUTO_BATCH, PROBE_BATCH):
        raise SpecError(
            "not a batch size", where=key, got=batch, expected=f"a number, {AUTO_BATCH} or {PROBE_BATCH}"
        )


def _check_sampler(sampler: SamplerSpec) -> None:
    _choice("sampler.preset", sampler.preset, tuple(PRESETS))
    for name, stage in (("c", sampler.c), ("ba", sampler.ba)):
        _choice(f"sampler.{name}.method", stage.method or METHODS[0], METHODS)
        _choice(f"sampler.{name}.result", stage.result or RESULTS[0], RESULTS)
        for key in ("guidance_rescale", "guidance_from", "guidance_to"):
            _range(f"sampler.{name}.{key}", getattr(stage, key) or 0, 0, 1)
        _range(f"sampler.{name}.shift", 1 if stage.shift is None else stage.shift, 0.01, 100)
        _range(f"sampler.{name}.guidance_end", stage.guidance_end or 0, 0, 2**31)
    if sampler.stage_a_tile is not None:
        _range("sampler.stage_a_tile", sampler.stage_a_tile, MIN_SIDE, MAX_SIDE)


def _check_loras(loras: tuple[LoraSpec, ...]) -> None:
    for number, lora in enumerate(loras):
        where = f"model.loras[{number}]"
        if not lora.uri.strip():
            raise SpecError("a LoRA without a path", where=f"{where}.uri", got=repr(lora.uri))
        for name, value in (("weight", lora.weight), ("alpha", lora.alpha)):
            if value is not None and not math.isfinite(value):
                raise SpecError(
                    "not a finite number",
                    where=f"{where}.{name}",
                    got=value,
                    next_step="write one such as 0.8",
                )


def _check_dtypes(dtype: DtypeSpec) -> None:
    if dtype.c == "float16":
        raise SpecError(
            "Stage C cannot run in float16",
            where="model.dtype.c",
            got="float16",
            expected=", ".join(DTYPES_C),
            next_step="its hidden states outgrow float16 in the last block group and render black or NaN "
            "images; use bfloat16 (Stage B and A may use float16: --set model.dtype.ba=float16)",
        )
    _choice("model.dtype.c", dtype.c, DTYPES_C)
    _choice("model.dtype.ba", dtype.ba, DTYPES_BA)


def _choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        close = difflib.get_close_matches(value, allowed, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else ""
        raise SpecError("unknown value", where=key, got=value, expected=", ".join(allowed), next_step=hint)


def _range(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise SpecError("value out of range", where=key, got=value, expected=f"{low} to {high}")
