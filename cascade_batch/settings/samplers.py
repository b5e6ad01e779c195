"""The sampler that a spec asks for: its preset, and what it changes about it."""

from dataclasses import asdict, replace

from cascade_batch.model.sampling import PRESETS, Sampling, StageSampling
from cascade_batch.settings.tree import SamplerSpec, Spec, StageSamplerSpec


def sampling_of(sampler: SamplerSpec) -> Sampling:
    """Every setting of both stages."""
    preset = PRESETS[sampler.preset]
    scale = preset.stage_a_scale if sampler.stage_a_scale is None else sampler.stage_a_scale
    return replace(
        preset,
        c=_changed(preset.c, sampler.c),
        ba=_changed(preset.ba, sampler.ba),
        stage_a_scale=scale,
        stage_a_tile=sampler.stage_a_tile,
    )


def with_guidance(spec: Spec) -> Spec:
    """The spec with the preset's guidance of Stage B."""
    scale = PRESETS[spec.sampler.preset].decoder_guidance_scale
    return replace(spec, render=replace(spec.render, decoder_guidance_scale=scale))


def _changed(preset: StageSampling, changes: StageSamplerSpec) -> StageSampling:
    return replace(preset, **{key: value for key, value in asdict(changes).items() if value is not None})
