"""The whole chain of `mini`, from prompts to pictures in memory, by our engine and by diffusers' pipelines."""

from collections.abc import Callable
from itertools import count, cycle, islice
from typing import Any

from cascade_batch.engine.batches import DecodedImages, DecoderBatch, PriorBatch
from cascade_batch.engine.decoder import Decoder
from cascade_batch.engine.prior import Prior
from cascade_batch.pipeline.rates import Configs, image_flops
from cascade_batch.plan.planning import ImageGroup
from cascade_batch.settings import ModelSpec
from cascade_batch.weights import EMBEDDED, locate
from cascade_batch.weights.local import local_files
from jobs.bench.loops import GUIDANCE, STEPS_B, STEPS_C
from jobs.bench.peers import Station, has_diffusers

PROMPTS = ("three small blue squares", "a large yellow star", "a red circle to the left of a green square")


class Chain:
    """Both chains at one picture size, float32."""

    def __init__(self, side: int, device: str) -> None:
        self._side, located = side, locate(ModelSpec(name="mini"))
        self._configs = Configs.read(located)
        parts = {name: local_files(part) for name, part in located.items()}
        self._prior = Prior.load(parts, "float32", device)
        self._decoder = Decoder.load(parts, "float32", device)
        self._theirs = self._their_pipelines(device) if has_diffusers() else None

    def run(self, batch: int) -> Station:
        """A batch of prompts, at every turn others, because our text encoder remembers those it has seen."""
        numbers = count()

        def prompts() -> list[str]:
            return [f"{text} {next(numbers)}" for text in islice(cycle(PROMPTS), batch)]

        runs: dict[str, Callable[[], Any]] = {"ours": lambda: self._ours(prompts())}
        if self._theirs is not None:
            theirs = self._theirs
            runs["diffusers"] = lambda: theirs.pictures(prompts(), list(range(batch)), self._side)
        image = ImageGroup(self._side, self._side, STEPS_C, True, STEPS_B, False)
        return Station("whole chain", batch * sum(image_flops(image, self._configs)), runs)

    def _ours(self, prompts: list[str]) -> DecodedImages:
        batch, seeds = len(prompts), list(range(len(prompts)))
        size, none = (self._side, self._side), [""] * batch
        seen = self._prior.render(PriorBatch(prompts, none, seeds, *size, STEPS_C, [GUIDANCE] * batch))
        texts = (seen.embeddings, seen.pooled, seen.negative_pooled)
        return self._decoder.render(DecoderBatch(*texts, seeds, *size, STEPS_B, [0.0] * batch))

    @staticmethod
    def _their_pipelines(device: str) -> Any:
        from jobs.bench.diffusers_script import Pipelines

        return Pipelines(str(EMBEDDED / "mini"), device)
