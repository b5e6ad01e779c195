"""Seconds that an image takes in each pool: read from an earlier run's manifest, and carried over to another plan.

What was measured is carried over by floating point operations: a picture of twice the FLOPs takes twice the time.
Where several kinds of device rendered, the rate is the mean over their images.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from cascade_batch import weights
from cascade_batch.errors import SpecError
from cascade_batch.model import flops
from cascade_batch.model.sampling import guides
from cascade_batch.plan.planning import ImageGroup
from cascade_batch.run.manifest import committed_shards, read_manifests
from cascade_batch.run.run import open_existing

SHARDS = 512
"""Manifest shards that a rate is taken from, evenly over the run: more say nothing new."""
_GROUP_COLUMNS = [
    "width", "height", "prior_steps", "prior_guidance_scale", "decoder_steps", "decoder_guidance_scale",
]  # fmt: skip
_COLUMNS = [
    *_GROUP_COLUMNS, "status", "stage_c_seconds", "stage_ba_seconds", "stage_c_device", "stage_ba_device",
]  # fmt: skip


@dataclass(frozen=True)
class PoolRate:
    """What one image costs in one actor of a pool."""

    seconds: float
    devices: tuple[str, ...]
    """Kinds that it was measured on."""


@dataclass(frozen=True)
class Rates:
    c: PoolRate
    ba: PoolRate

    @property
    def share_c(self) -> float:
        """Pool C's share of an image's seconds."""
        return self.c.seconds / (self.c.seconds + self.ba.seconds)


@dataclass(frozen=True)
class Measured:
    """Images of some kinds, and the seconds that they took in all."""

    groups: Mapping[ImageGroup, int]
    seconds: tuple[float, float]
    """Pool C's, pool BA's."""
    devices: tuple[tuple[str, ...], tuple[str, ...]]

    def rates(self) -> Rates:
        """Of the images that were measured."""
        images = sum(self.groups.values())
        c, ba = (
            PoolRate(*both) for both in zip((s / images for s in self.seconds), self.devices, strict=True)
        )
        return Rates(c, ba)

    def rates_of(self, groups: Mapping[ImageGroup, int], configs: "Configs") -> Rates:
        """Of other images, by their FLOPs."""
        here = self.rates()
        c, ba = (
            PoolRate(
                rate.seconds * _mean(groups, configs, pool) / _mean(self.groups, configs, pool), rate.devices
            )
            for pool, rate in enumerate((here.c, here.ba))
        )
        return Rates(c, ba)


@dataclass(frozen=True)
class Configs:
    """What decides the FLOPs of an image: the `config.json` of the networks."""

    stage_c: dict
    stage_b: dict
    stage_a: dict
    text_encoder: dict

    @classmethod
    def read(cls, parts: Mapping[str, weights.Part]) -> "Configs":
        names = ("stage_c", "stage_b", "stage_a", "text_encoder")
        return cls(**{name: weights.read_config(parts[name]) for name in names})


def image_flops(group: ImageGroup, configs: Configs) -> tuple[int, int]:
    """FLOPs of one image in pool C and in pool BA."""
    height, width = group.height, group.width
    prior = flops.stage_c_flops(configs.stage_c, height, width, group.prior_steps, group.prior_guided)
    decoder = flops.stage_b_flops(configs.stage_b, height, width, group.decoder_steps, group.decoder_guided)
    return (
        prior + flops.text_flops(configs.text_encoder, 2),
        decoder + flops.stage_a_flops(configs.stage_a, height, width),
    )


def _mean(groups: Mapping[ImageGroup, int], configs: Configs, pool: int) -> float:
    return sum(image_flops(group, configs)[pool] * n for group, n in groups.items()) / sum(groups.values())


def measured_in(uri: str) -> Measured:
    """What the images of an earlier run took.

    Raises:
        SpecError: it has rendered nothing.
        StorageError: there is no run.
    """
    groups, seconds = Counter[ImageGroup](), [0.0, 0.0]
    devices: tuple[set[str], set[str]] = (set(), set())
    for manifest in _manifests(uri):
        groups.update(_groups(manifest))
        for pool, stage in enumerate(("stage_c", "stage_ba")):
            seconds[pool] += sum(manifest[f"{stage}_seconds"].to_pylist())
            devices[pool].update(manifest[f"{stage}_device"].to_pylist())
    if not groups or not all(seconds):
        raise SpecError("that run has rendered nothing to measure", where=uri, expected="committed images")
    return Measured(groups, (seconds[0], seconds[1]), (_sorted(devices[0]), _sorted(devices[1])))


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))


def _manifests(uri: str) -> Iterator[pa.Table]:
    run = open_existing(uri)
    shards = sorted(committed_shards(run.storage))
    for _, manifest in read_manifests(run.storage, shards[:: -(-len(shards) // SHARDS) or 1], _COLUMNS):
        yield manifest.filter(pc.field("status") == "ok")


def _groups(manifest: pa.Table) -> Iterator[ImageGroup]:
    for row in manifest.select(_GROUP_COLUMNS).to_pylist():
        width, height, prior_steps, prior_guidance, decoder_steps, decoder_guidance = row.values()
        yield ImageGroup(
            width, height, prior_steps, guides(prior_guidance), decoder_steps, guides(decoder_guidance)
        )
