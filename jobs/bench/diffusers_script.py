"""What one writes today to render a table: Ray Data around the pipelines of diffusers, one of each per actor.

Run:  python jobs/bench/diffusers_script.py TABLE OUT --model FOLDER [--actors 1] [--threads 2] [--batch 1]

TABLE has the columns `id`, `prompt` and `seed`; OUT gets one PNG per row. It is the peer of
`jobs/bench/end_to_end.py` and takes nothing of this project but the weights: no resume, no manifest, no failed rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import ray
import ray.data

SIDE = 1024


def velocity_unet() -> type:
    """diffusers' network, answering with the noise that a predicted velocity stands for, as `mini` needs."""
    from diffusers.models.unets.unet_stable_cascade import StableCascadeUNet
    from diffusers.schedulers.scheduling_ddpm_wuerstchen import DDPMWuerstchenScheduler

    scheduler: Any = DDPMWuerstchenScheduler()

    class VelocityUNet(StableCascadeUNet):
        def forward(self, sample: Any, timestep_ratio: Any, *rest: Any, **named: Any) -> Any:
            velocity = super().forward(sample, timestep_ratio, *rest, **named)[0]
            signal = scheduler._alpha_cumprod(timestep_ratio, sample.device).view(-1, 1, 1, 1)
            return (signal.sqrt() * velocity + (1 - signal).sqrt() * sample,)

    return VelocityUNet


class Pipelines:
    """Both pipelines of one model folder."""

    def __init__(self, model: str, device: str = "cpu") -> None:
        import torch
        from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
        from diffusers.pipelines.stable_cascade.pipeline_stable_cascade import StableCascadeDecoderPipeline
        from diffusers.pipelines.stable_cascade.pipeline_stable_cascade_prior import (
            StableCascadePriorPipeline,
        )
        from diffusers.schedulers.scheduling_ddpm_wuerstchen import DDPMWuerstchenScheduler
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer

        network = velocity_unet()
        shared = {
            "tokenizer": CLIPTokenizer.from_pretrained(f"{model}/tokenizer"),
            "text_encoder": CLIPTextModelWithProjection.from_pretrained(f"{model}/text_encoder"),
            "scheduler": DDPMWuerstchenScheduler.from_pretrained(f"{model}/scheduler"),
        }
        self._prior: Any = StableCascadePriorPipeline(
            prior=network.from_pretrained(f"{model}/prior"), **shared
        )
        self._decoder: Any = StableCascadeDecoderPipeline(
            decoder=network.from_pretrained(f"{model}/decoder"),
            vqgan=PaellaVQModel.from_pretrained(f"{model}/vqgan"),
            **shared,
        )
        for pipeline in (self._prior, self._decoder):
            pipeline.to(device, torch.float32)
            pipeline.set_progress_bar_config(disable=True)

    def pictures(self, prompts: list[str], seeds: list[int], side: int = SIDE) -> list[Any]:
        """Pillow images of `side` x `side` pixels, default steps and guidance."""
        seen = self._prior(prompts, height=side, width=side, generator=_generators(seeds)).image_embeddings
        return self._decoder(seen, prompts, guidance_scale=0.0, generator=_generators(seeds)).images


class Renderer:
    """Both pipelines in one actor: a batch of prompts in, their PNGs in `out`."""

    def __init__(self, model: str, out: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._pipelines, self._out = Pipelines(model), Path(out)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        images = self._pipelines.pictures(list(batch["prompt"]), list(batch["seed"]))
        paths = [self._out / f"{name.replace('/', '_')}.png" for name in batch["id"]]
        for image, path in zip(images, paths, strict=True):
            image.save(path)
        return {"id": batch["id"], "path": [str(path) for path in paths]}


def _generators(seeds: list[int]) -> list[Any]:
    import torch

    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def main() -> None:
    parser = argparse.ArgumentParser(description="Render a table with diffusers under Ray Data.")
    parser.add_argument("table")
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", required=True, help="a folder in the diffusers layout")
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="of one actor")
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    rows = ray.data.read_parquet(options.table)
    # A block goes to an actor whole, so that a small file in one block would keep one actor busy.
    blocks = -(-rows.count() // options.batch)
    written = rows.repartition(blocks).map_batches(
        Renderer,
        fn_constructor_args=(options.model, str(options.out.resolve()), options.threads),
        batch_size=options.batch,
        compute=ray.data.ActorPoolStrategy(size=options.actors),
        num_cpus=1 / options.actors,  # reading takes a whole one of the two: with more, nothing ever starts
    )
    print(f"{written.count()} pictures in {options.out}")


if __name__ == "__main__":
    main()
