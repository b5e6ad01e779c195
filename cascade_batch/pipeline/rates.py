"""Seconds that an image takes in each pool: read from an earlier run's manifest, and carried over to another plan.

What was measured is carried over by floating point operations: a picture of twice the FLOPs takes twice the time.
Where several kinds of device rendered, the rate is the mean over their images.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from cascade_batch import weights
from cascade_batch.errors import SpecError
from cascade_batch.model import flops
from cascade_batch.model.sampling import guides
from cascade_batch.model.stages import STAGES, PerPool
from cascade_batch.plan.planning import ImageGroup
from cascade_batch.run.manifest import committed_shards, read_manifests
from cascade_batch.run.run import open_existing

SHARDS = 512
"""Manifest shards that a rate is taken from, evenly over the run: more say nothing new."""
_GROUP_COLUMNS = [
    "width", "height", "prior_steps", "prior_guidance_scale", "decoder_steps", "decoder_guidance_scale",
]  # fmt: skip
_COLUMNS = [*_GROUP_COLUMNS, "status", *(s.cost(name) for name in ("seconds", "device") for s in STAGES)]


@dataclass(frozen=True)
class PoolRate:
    """What one image costs in one actor of a pool."""

    seconds: float
    devices: tuple[str, ...]
    """Kinds that it was measured on."""


@dataclass(frozen=True)
class Rates(PerPool[PoolRate]):
    @property
    def share_c(self) -> float:
        """Pool C's share of an image's seconds."""
        return self.c.seconds / sum(rate.seconds for rate in self)


@dataclass(frozen=True)
class Measured:
    """Images of some kinds, and the seconds that they took in all."""

    groups: Mapping[ImageGroup, int]
    seconds: PerPool[float]
    devices: PerPool[tuple[str, ...]]

    def rates(self) -> Rates:
        """Of the images that were measured."""
        images = sum(self.groups.values())
        return Rates(*PerPool.of(lambda stage: PoolRate(self.seconds[stage] / images, self.devices[stage])))

    def rates_of(self, groups: Mapping[ImageGroup, int], configs: "Configs") -> Rates:
        """Of other images, by their FLOPs."""
        here, theirs, ours = self.rates(), _mean(groups, configs), _mean(self.groups, configs)
        seconds = PerPool.of(lambda stage: here[stage].seconds * theirs[stage] / ours[stage])
        return Rates(*PerPool.of(lambda stage: PoolRate(seconds[stage], here[stage].devices)))


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


def image_flops(group: ImageGroup, configs: Configs) -> PerPool[int]:
    """FLOPs of one image in each pool."""
    height, width = group.height, group.width
    prior = flops.stage_c_flops(configs.stage_c, height, width, group.prior_steps, group.prior_guided)
    decoder = flops.stage_b_flops(configs.stage_b, height, width, group.decoder_steps, group.decoder_guided)
    return PerPool(
        prior + flops.text_flops(configs.text_encoder, 2),
        decoder + flops.stage_a_flops(configs.stage_a, height, width),
    )


def _mean(groups: Mapping[ImageGroup, int], configs: Configs) -> PerPool[float]:
    """FLOPs of one image of these, on average."""
    total = sum(groups.values())
    each = [(image_flops(group, configs), images) for group, images in groups.items()]
    return PerPool.of(lambda stage: sum(cost[stage] * images for cost, images in each) / total)


def measured_in(uri: str) -> Measured:
    """What the images of an earlier run took.

    Raises:
        SpecError: it has rendered nothing.
        StorageError: there is no run.
    """
    groups = Counter[ImageGroup]()
    seconds, devices = PerPool[list[float]]([], []), PerPool[set[str]](set(), set())
    for manifest in _manifests(uri):
        groups.update(_groups(manifest))
        for stage in STAGES:
            seconds[stage].extend(manifest[stage.cost("seconds")].to_pylist())
            devices[stage].update(manifest[stage.cost("device")].to_pylist())
    total = seconds.map(sum)
    if not groups or not all(total):
        raise SpecError("that run has rendered nothing to measure", where=uri, expected="committed images")
    return Measured(groups, total, devices.map(lambda names: tuple(sorted(names))))


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
